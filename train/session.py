"""Everything that a run needs, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.training_utils import EMAModel

from memsieve.filtering.audit.looked_up import LookedUpReference
from memsieve.filtering.data.loader import WindowLoader
from memsieve.filtering.data.loader_sieve import SieveFile
from memsieve.filtering.data.rows import Row
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.filter import MemorizationFilter
from memsieve.train.config import RunConfig
from memsieve.train.copies import CopyProbe
from memsieve.train.engine import Engine
from memsieve.train.held_out import HeldOutTurns
from memsieve.train.measure import Scorer
from memsieve.train.overfits import OverfitWatch
from memsieve.train.prior import Prior
from memsieve.train.recall import RecallProbe
from memsieve.train.records import Records
from memsieve.train.step import WindowTrainer
from memsieve.train.tracking import Tracker
from memsieve.train.watchdog import Watch

__all__ = ["Session"]


@dataclass(slots=True)
class Session:
    """The parts of a run, wired together, at the step they resume from."""

    config: RunConfig
    accelerator: Any
    engine: Engine
    watch: Watch
    denoiser: Any
    model: torch.nn.Module
    optimizer: Any
    schedule: Any
    ema: EMAModel | None
    loader: WindowLoader
    held_out: list[Row]
    filter: MemorizationFilter | None
    scorer: Scorer | None
    trainer: WindowTrainer
    exchange: Exchange
    records: Records
    tracker: Tracker
    copies: CopyProbe | None
    sieve: SieveFile | None
    looked_up: LookedUpReference | None
    turns: HeldOutTurns | None
    recall: RecallProbe | None
    prior: Prior | None
    training_rows: list[Row]
    """Some of the training pairs: how their loss falls, beside that of held-out ones, says whether the run overfits."""
    total_steps: int
    """Exact with ``train.steps``; with ``train.epochs`` what it takes where every row is usable, so never too few."""
    step: int = 0
    updates: int = 0
    skipped: int = 0
    saved: int = 0
    """The step of the newest checkpoint."""
    validated: int = 0
    """The step of the last validation."""
    position: dict[str, Any] | None = None
    """Where the data stands after the last window that was trained: the loader itself may be a window ahead."""
    times: list[float] = field(default_factory=list)
    overfits: OverfitWatch = field(default_factory=OverfitWatch)
    best: int = -1
    """The step of the model in ``best/``; -1 where there is none."""
    ended: str = ""
    """Why there was nothing left to train on, where it was not the end of the last pass."""

    @property
    def keeps_best(self) -> bool:
        """Whether the best model so far is written beside the last one."""
        asked = self.config.checkpoint.best
        return self.recall is not None if asked is None else asked
