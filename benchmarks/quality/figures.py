"""From the cells of ``scripts/bench quality`` to figures with intervals over pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.copying.intervals import Figure, auc_of, found_at, interval, proportion, raised, ratio

__all__ = ["Figure", "Results", "auc_of", "found_at", "interval"]

DROPPED = 1000.0
"""Added to the evidence of what was dropped."""


@dataclass(slots=True)
class Results:
    """The cells that are there, by (method, case, seed)."""

    cells: dict[tuple[str, str, int], dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, present: Callable[[dict[str, Any]], bool]) -> tuple[Results, int]:
        """The cells that are ``present`` with the settings of now, and how many others are there."""
        found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
        kept = {(cell["method"], cell["case"], cell["seed"]): cell for cell in found if present(cell)}
        return cls(kept), len(found) - len(kept)

    def of(self, method: str, case: str = "planted") -> list[dict[str, Any]]:
        """A method's cells of a case, by seed."""
        return [cell for (m, c, _), cell in sorted(self.cells.items()) if (m, c) == (method, case)]

    @property
    def methods(self) -> list[str]:
        return sorted({method for method, case, _ in self.cells if case == "planted"})

    def detection(self, method: str, group: str) -> tuple[Figure | None, Figure | None, Figure | None]:
        """(TPR at 1 % false drops, AUC, share dropped) of the pairs of a level or hard case.

        Where evidence ranks pairs, those that were dropped come first, ordinary ones too: what is not trained on any
        more stands still.
        """
        found, ranked, dropped = [], [], []
        for cell in self.of(method):
            singles = cell["singles"].get("clean", {})
            first = DROPPED if cell["settings"]["method"]["score"] == "evidence" else 0.0
            clean = singles.get("score")
            if clean is not None:
                gone = set(singles.get("dropped", []))
                clean = [raised(score, first if i in gone else 0.0) for i, score in enumerate(clean)]
            for pair in (p for p in cell["pairs"] if p["case"] == group):
                if clean is not None and "score" in pair:
                    score = raised(pair["score"], first if pair.get("dropped") else 0.0)
                    found.append(found_at(score, clean))
                    ranked.append(auc_of(score, clean))
                if "dropped" in pair:
                    dropped.append(float(pair["dropped"]))
        return interval(found), interval(ranked, proportion=False), interval(dropped)

    def generated(self, method: str, group: str, what: str) -> Figure | None:
        """Share of generations that are ``copies``, or whose nearest training image is their ``own``."""
        return interval([
            float(np.mean(told[what]))
            for cell in self.of(method)
            for told in cell["generations"].values()
            if told["case"] == group
        ])  # fmt: skip

    def first_dropped(self, method: str, group: str) -> tuple[float, int, int] | None:
        """(median visit that was the first to be dropped, pairs of which one was, pairs)."""
        pairs = [p for cell in self.of(method) for p in cell["pairs"] if p["case"] == group and "visits" in p]
        if not pairs:
            return None
        first = [p["first"] if p["first"] is not None else math.inf for p in pairs]
        return float(np.median(first)), sum(math.isfinite(f) for f in first), len(first)

    def visits(self, method: str, group: str) -> float | None:
        """Median visits of the pairs of a level."""
        seen = [p["visits"] for cell in self.of(method) for p in cell["pairs"] if p["case"] == group and "visits" in p]
        return float(np.median(seen)) if seen else None

    def false_drops(self, method: str, case: str = "planted", kind: str = "clean") -> Figure | None:
        """Share of pairs that stand in the data once and were dropped."""
        hits = count = 0
        for cell in self.of(method, case):
            column = cell["singles"].get(kind, {})
            if "score" in column or "dropped" in column or "visits" in column:
                hits, count = hits + len(column.get("dropped", [])), count + column["count"]
        return proportion(hits, count)

    def all_false_drops(self, method: str, case: str = "nothing") -> list[tuple[int, int, int]]:
        """(seed, dropped, pairs) over every pair, where none was planted."""
        return [
            (cell["seed"], sum(len(column.get("dropped", [])) for column in cell["singles"].values())
             + sum(bool(p.get("dropped")) for p in cell["pairs"]),
             sum(column["count"] for column in cell["singles"].values()) + len(cell["pairs"]))
            for cell in self.of(method, case)
        ]  # fmt: skip

    def held_out(self, method: str, against: str = "oracle") -> Figure | None:
        """Held-out loss relative to another method's, over the seeds that both have; resamples held-out pairs."""
        both = self._held_out_pairs(method, against)
        if not both:
            return None
        mine, theirs = (np.mean([pair[i] for pair in both], axis=0) for i in (0, 1))
        return ratio(mine, theirs)

    def held_out_by_seed(self, method: str, against: str = "oracle") -> list[float]:
        """The same of each seed that both have."""
        return [float(mine.sum() / theirs.sum()) for mine, theirs in self._held_out_pairs(method, against)]

    def _held_out_pairs(self, method: str, against: str) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            (np.array(cell["held_out"]), np.array(self.cells[against, "planted", cell["seed"]]["held_out"]))
            for cell in self.of(method)
            if (against, "planted", cell["seed"]) in self.cells
        ]

    def mean(self, method: str, name: str) -> float | None:
        """A number of the cells, averaged over seeds."""
        values = [cell[name] for cell in self.of(method) if cell.get(name) is not None]
        return float(np.mean(values)) if values else None
