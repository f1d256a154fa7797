"""Which cells there are, what each depends on, and where its numbers lie."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from benchmarks.common import ROOT
from benchmarks.copying.data import ROWS, Stream
from benchmarks.copying.drawings import SHOWN, Drawing
from benchmarks.copying.found import DESCRIBED
from benchmarks.copying.learned import JUDGE
from benchmarks.copying.methods import METHODS, STREAMS, TIERS, Method, filter_of
from benchmarks.deciding import code_of_decisions

__all__ = ["PAPER", "TUNED", "Cell", "Plan", "Protocol", "published"]

PAPER: Final = {"paper": "best", "paper_reweight": "best", "paper_five": "five", "paper_anchored": "best"}
"""Methods by the paper's rule, and which of the thresholds found for it they take."""
LATER: Final = ("groups", "advised", "of", "watched")
"""What methods have said since cells were made: where they do not, it is as it was."""
TUNED: Final = {"tune_paper": "magnitude", "tune_paper_anchored": "anchored_magnitude"}
"""Methods that find them, and for which signal."""
VALIDATION_SEED: Final = 1000
"""Planted anew: where the paper's thresholds are chosen."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """What all cells share.

    Attributes:
        model: the base; a folder of the repository, or any.
        resolution: that it is trained at.
        batch_size: of a step.
        lr: highest; a warm-up and a cosine.
        warmup_steps: of the whole run; runs that stop early have the same share.
        steps: of all methods; 0 takes as many as the passes over the stream take.
        streams: of the loader.
        held_out_max: held-out pairs that calibrate; the held-out loss takes all.
        held_out_per_window: of those, in the batch.
        held_out_draws: of (t, noise) for the held-out loss.
        drawing: how the finished model is asked.
    """

    model: str = "assets/tiny-icons"
    resolution: int = 64
    batch_size: int = 8
    lr: float = 1e-3
    warmup_steps: int = 40
    steps: int = 0
    streams: int = 8
    held_out_max: int = 128
    held_out_per_window: int = 4
    held_out_draws: int = 4
    drawing: Drawing = field(default_factory=Drawing)

    @property
    def base(self) -> Path:
        """The base's folder."""
        path = Path(self.model)
        return path if path.is_absolute() else ROOT / path


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """A method on a stream and a seed."""

    method: str
    stream: str
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.method}-{self.stream.replace(' ', '-')}-seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where cells work and where their results lie."""

    work: Path
    results: Path
    protocol: Protocol = field(default_factory=Protocol)
    streams: dict[str, Stream] = field(default_factory=lambda: dict(STREAMS))
    judge: Path = JUDGE

    def file(self, cell: Cell) -> Path:
        """The numbers of a cell."""
        return self.results / f"{cell.name}.json"

    def run_folder(self, cell: Cell) -> Path:
        """The training run of a cell."""
        return self.work / "cells" / f"{cell.name}-{self.hash(cell)}"

    def drawn_file(self, cell: Cell) -> Path:
        """What its model drew; it is not published."""
        return self.work / "drawn" / f"{cell.name}-{self.hash(cell)}.pt"

    def needs(self, cell: Cell) -> Cell | None:
        """What must be there before ``cell``."""
        if cell.method in PAPER:
            tuning = "tune_paper_anchored" if cell.method == "paper_anchored" else "tune_paper"
            return Cell(tuning, cell.stream, VALIDATION_SEED)
        if METHODS[cell.method].of:
            return Cell(METHODS[cell.method].of, cell.stream, cell.seed)
        return Cell("ours", cell.stream, cell.seed) if cell.method == "random_drop" else None

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Everything that the result depends on; of the code, what decides in memsieve's own methods."""
        method, needed = METHODS[cell.method], self.needs(cell)
        deciding = filter_of(method)
        asked = {
            "method": _as_ever(method), "filter": deciding, "stream": asdict(self.streams[cell.stream]),
            "rows": ROWS, "seed": cell.seed, "protocol": asdict(self.protocol), "base": weights_of(self.protocol.base),
            "judge": _digest(self.judge), "shown": SHOWN,
            "needs": self.hash(needed) if needed else None,
        }  # fmt: skip
        if method.groups:
            asked["described"] = DESCRIBED
        if method.score == "evidence":
            by_drawings = deciding.get("rule") == "recall"
            asked["decided_by"] = code_of_decisions(deciding.get("apply") == "sieve", by_drawings)
        return dict(json.loads(json.dumps(asked)))

    def hash(self, cell: Cell) -> str:
        """Of the settings."""
        return hashlib.sha256(json.dumps(self.settings(cell), sort_keys=True).encode()).hexdigest()[:16]

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """What is there of ``cell``, if it was made with these settings."""
        file = self.file(cell)
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        return found if found is not None and found["hash"] == self.hash(cell) else None


@cache
def _digest(file: Path) -> str:
    """Of a file; of one that is made first, nothing."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else ""


def _as_ever(method: Method) -> dict[str, Any]:
    return {name: value for name, value in asdict(method).items() if value or name not in LATER}


def published(tier: int, seeds: tuple[int, ...] | None = None) -> list[Cell]:
    """The cells of a tier, seed by seed, so that a part of them already says something."""
    cells = [
        Cell(method, stream, seed)
        for stream, methods, its_seeds in TIERS[tier]
        for seed in its_seeds
        for method in methods
        if seeds is None or seed in seeds
    ]
    return sorted(cells, key=lambda cell: cell.seed)


@cache
def weights_of(folder: Path) -> str:
    """A digest of a pipeline's weights: numbers of another base are no result of this one.

    Raises:
        ValueError: there is no pipeline there.
    """
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise ValueError(f"there is no base at '{folder}'; build it with python -m scripts.tiny_icons.build")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder)} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()[:16]
