"""From cells to figures, pooled over the seeds that are there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.copying.excess import Excess, excess
from benchmarks.copying.intervals import Figure, found_at, interval, proportion, raised, ratio, share_of
from benchmarks.copying.methods import SMALL_STOPS, STOPS

__all__ = ["BASE_MOST", "PREMISE", "Results"]

PREMISE: Final = 0.4
"""The least excess of the unfiltered run in a case that is to show something."""
BASE_MOST: Final = 0.1
"""The most that the base may have there: what it draws without having seen the picture is no copy."""
DROPPED: Final = 1000.0
"""Added to the evidence of what was dropped."""
CellFile = dict[str, Any]


@dataclass(slots=True)
class Results:
    """The cells that are there, by (method, stream, seed)."""

    cells: dict[tuple[str, str, int], CellFile] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, present: Callable[[CellFile], bool]) -> tuple[Results, int]:
        """The cells that are ``present`` with the settings of now, and how many others are there."""
        found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
        kept = {(cell["method"], cell["stream"], cell["seed"]): cell for cell in found if present(cell)}
        return cls(kept), len(found) - len(kept)

    def of(self, method: str, stream: str) -> list[CellFile]:
        """A method's cells on a stream, by seed. ``stop``: of each seed the one of the runs without a filter, whole or
        stopped early, that fits held-out pairs best; where all of them are there."""
        if method != "stop":
            return [cell for (m, s, _), cell in sorted(self.cells.items()) if (m, s) == (method, stream)]
        best = []
        for seed in sorted({seed for _, s, seed in self.cells if s == stream}):
            names = SMALL_STOPS if stream.startswith("small") else STOPS
            runs = [self.cells.get((name, stream, seed)) for name in names]
            there = [run for run in runs if run is not None]
            if len(there) == len(names):
                best.append(min(there, key=lambda run: float(np.mean(run["held_out"]))))
        return best

    def cases(self, stream: str) -> list[str]:
        """The planted cases of a stream, in the order in which it names them."""
        for (_, name, _), cell in sorted(self.cells.items()):
            if name == stream:
                planted = cell["settings"]["stream"]["planted"]
                return [f"{row['kind']} {row['exposures']}" for row in planted]
        return []

    def rates(self, method: str, stream: str, case: str, judge: str = "pixel_l2") -> list[float]:
        """How often each pair's drawings are nearest to its own picture."""
        return [told[f"own {judge}"] for told in self._drawn(method, stream, case)]

    def excess(self, method: str, stream: str, case: str, judge: str = "pixel_l2") -> Excess | None:
        """That of a case beyond held-out pairs', in the same models."""
        mine, others = (self.rates(method, stream, name, judge) for name in (case, "held_out"))
        return excess(np.array(mine), np.array(others)) if mine and others else None

    def counts(self, stream: str, case: str, judge: str = "pixel_l2") -> bool | None:
        """Whether a case can show something: the unfiltered run copies it, and the base does not. None where one of the
        two was not measured."""
        none, base = (self.excess(method, stream, case, judge) for method in ("none", "base"))
        if none is None or base is None:
            return None
        return none.difference >= PREMISE and base.difference <= BASE_MOST

    def of_unfiltered(self, method: str, stream: str, case: str = "ordinary") -> tuple[Figure | None, Figure | None]:
        """(excess by pixels, copies) as a share of those of the run without a filter, over the seeds that both have."""
        seeds = [{cell["seed"] for cell in self.of(name, stream)} for name in (method, "none")]
        told = [[cell for cell in self.of(name, stream) if cell["seed"] in seeds[0] & seeds[1]]
                for name in (method, "none")]  # fmt: skip
        own = [_told(cells, case, lambda pair: pair["own pixel_l2"]) for cells in told]
        unseen = [_told(cells, "held_out", lambda pair: pair["own pixel_l2"]) for cells in told]
        copies = [_told(cells, case, lambda pair: float(np.mean(pair["copies pixel_l2"]))) for cells in told]
        zero = [[0.0], [0.0]]
        return share_of(own, unseen), share_of(copies, zero)

    def copies(self, method: str, stream: str, case: str, judge: str = "pixel_l2") -> Figure | None:
        """Share of drawings that are copies by the strict judge."""
        return interval([float(np.mean(told[f"copies {judge}"])) for told in self._drawn(method, stream, case)])

    def recognised(self, method: str, stream: str) -> Figure | None:
        """Share of held-out captions' drawings that are recognised among twenty captions."""
        told = self._drawn(method, stream, "held_out")
        return interval([pair["recognised"] for pair in told if "recognised" in pair])

    def found(self, method: str, stream: str, case: str) -> Figure | None:
        """Share of pairs that rank above all but 1 % of the ordinary pairs, by the method's own number.

        Where evidence ranks pairs, those that were dropped come first, ordinary ones too: what is not trained on any
        more stands still.
        """
        ranked = []
        for cell in self.of(method, stream):
            singles = cell["singles"].get("ordinary", {})
            if (clean := singles.get("score")) is None:
                continue
            first = DROPPED if cell["settings"]["method"]["score"] == "evidence" else 0.0
            gone = set(singles.get("dropped", []))
            clean = [raised(score, first if i in gone else 0.0) for i, score in enumerate(clean)]
            for pair in cell["pairs"]:
                if pair["case"] == case and "score" in pair:
                    ranked.append(found_at(raised(pair["score"], first if pair.get("dropped") else 0.0), clean))
        return interval(ranked)

    def dropped(self, method: str, stream: str, case: str) -> Figure | None:
        """Share of a case's pairs that are dropped; of ``ordinary`` and ``rare`` ones too."""
        told, hits, count = [], 0, 0
        for cell in self.of(method, stream):
            told += [float(p["dropped"]) for p in cell["pairs"] if p["case"] == case and "dropped" in p]
            column = cell["singles"].get(case, {})
            if "dropped" in column:
                hits, count = hits + len(column["dropped"]), count + column["count"]
        return interval(told) if told else proportion(hits, count)

    def held_out(self, method: str, stream: str, against: str = "oracle") -> Figure | None:
        """Held-out loss relative to another method's, over the seeds that both have."""
        both = self._held_out(method, stream, against)
        mine, theirs = (np.mean([pair[i] for pair in both], axis=0) for i in (0, 1)) if both else ([], [])
        return ratio(mine.tolist(), theirs.tolist()) if both else None

    def held_out_by_seed(self, method: str, stream: str, against: str = "oracle") -> list[float]:
        """The same of each seed."""
        return [float(mine.sum() / theirs.sum()) for mine, theirs in self._held_out(method, stream, against)]

    def rounds(self, method: str, stream: str) -> float | None:
        """How often an ordinary pair came round, dropped or not."""
        return _mean(_rounds(cell) for cell in self.of(method, stream))

    def mean(self, method: str, stream: str, name: str) -> float | None:
        """A number of the cells, averaged over seeds."""
        return _mean(cell.get(name) for cell in self.of(method, stream))

    def _drawn(self, method: str, stream: str, case: str) -> list[dict[str, Any]]:
        cells = self.of(method, stream)
        return [told for cell in cells for told in cell.get("drawn", {}).values() if told["case"] == case]

    def _held_out(self, method: str, stream: str, against: str) -> list[tuple[np.ndarray, np.ndarray]]:
        others = {cell["seed"]: np.array(cell["held_out"]) for cell in self.of(against, stream)}
        return [
            (np.array(cell["held_out"]), others[cell["seed"]])
            for cell in self.of(method, stream)
            if cell["seed"] in others
        ]


def _told(cells: Iterable[CellFile], case: str, number: Callable[[dict[str, Any]], float]) -> list[float]:
    return [number(pair) for cell in cells for pair in cell.get("drawn", {}).values() if pair["case"] == case]


def _rounds(cell: CellFile) -> float | None:
    """By its ledger; without one all rows of the part that was read come equally often."""
    visits = cell["singles"].get("ordinary", {}).get("visits")
    if visits:
        return float(np.mean([count or 0 for count in visits]))
    if "steps" not in cell:
        return None
    settings = cell["settings"]
    return float(cell["steps"] * settings["protocol"]["batch_size"] / cell["rows"][settings["method"]["part"]])


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None
