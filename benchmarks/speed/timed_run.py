"""The runs that scripts/bench speed times: their configs, and blocks of windows taken from them in turn."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from benchmarks.common import CONFIGS, MODEL
from memsieve.filtering import schedule
from memsieve.filtering.data.loader import Window
from memsieve.filtering.settings import load_settings
from memsieve.train import held_out
from memsieve.train.config import RunConfig
from memsieve.train.loop import train_window
from memsieve.train.session import Session
from memsieve.train.set_up import set_up

__all__ = [
    "DEMONSTRATION",
    "DEMONSTRATION_LIMITS",
    "LIMITS",
    "PASS_LIMITS",
    "TURN",
    "VARIANTS",
    "TimedRun",
    "planted_groups",
]

DEMONSTRATION: Final = 79
"""Percent of the rows that are repeats in the data that configs/train/openmoji.yaml is shown with."""
TURN: Final = [16, 4]
"""Held-out pairs scored in one go in the batch, and windows from one to the next: the default for batches of 16."""

_BATCH, _SIEVE = ["filter.apply=batch"], ["filter.apply=sieve", "filter.record=[]"]
_DEFAULT = "filter.signals=[reference_residual]"
_AS_SHIPPED = [*_BATCH, _DEFAULT, "filter.record=[magnitude]"]
VARIANTS: Final[dict[str, list[str]]] = {
    "no filter": ["filter.enabled=false"],
    "paper's rule": [
        "filter.signals=[magnitude]", "filter.record=[]", "filter.rule=threshold", "filter.threshold=2.8",
    ],
    "batch: magnitude": [*_BATCH, "filter.signals=[magnitude]", "filter.record=[]"],
    "batch: default signal": [*_BATCH, _DEFAULT, "filter.record=[]"],
    "batch: default signal, first sweeps": [*_BATCH, _DEFAULT, "filter.record=[]"],
    "batch: default signal, magnitude recorded": _AS_SHIPPED,
    "batch: default signal, magnitude recorded, first sweeps": _AS_SHIPPED,
    "batch: default signal, drift recorded": [*_BATCH, _DEFAULT, "filter.record=[drift]"],
    "batch: default signal, anchored magnitude recorded": [*_BATCH, _DEFAULT, "filter.record=[anchored_magnitude]"],
    "batch: drift": [*_BATCH, "filter.signals=[drift]", "filter.record=[]"],
    "batch: anchored magnitude": [*_BATCH, "filter.signals=[anchored_magnitude]", "filter.record=[]"],
    "sieve: frozen copy": [*_SIEVE, _DEFAULT],
    "sieve: frozen copy, budget 0.25": [*_SIEVE, _DEFAULT, "filter.score_budget=0.25"],
    "sieve: looked up": [*_SIEVE, _DEFAULT, "filter.reference={audit}"],
}  # fmt: skip
"""Overrides of configs/train/openmoji.yaml, with the settings' own defaults for what a turn of held-out pairs is.
The budget of 0.25 is that of configs/train/openmoji_sieve.yaml, whose quality is measured. The *first sweeps* are those
in which held-out pairs meet draws that the reference was not yet asked about."""
LIMITS: Final = {
    "batch: magnitude": 1.40,
    "batch: default signal": 1.40, "batch: default signal, first sweeps": 1.40,
    "batch: default signal, magnitude recorded": 1.75,
    "batch: default signal, magnitude recorded, first sweeps": 1.75,
    "sieve: frozen copy": 1.10, "sieve: looked up": 1.02,
}  # fmt: skip
"""What was aimed at, at equal updates with nothing to drop."""
PASS_LIMITS: Final = {"sieve: frozen copy": 1.00, "sieve: looked up": 0.95}
"""What was aimed at per pass over data with 10 % planted rows."""
DEMONSTRATION_LIMITS: Final = {
    "batch: default signal, magnitude recorded": 1.35,
    "batch: default signal, magnitude recorded, first sweeps": 1.35,
}
"""What was aimed at per update on the demonstration's data, its repeated pairs condemned."""


def planted_groups(data: Path) -> list[str]:
    """Groups that a dataset holds more than once, and are trained on."""
    rows = pq.read_table(data / "truth.parquet").to_pylist()
    return sorted({row["group"] for row in rows if row["repeats"] > 1})


def _begin_with_the_dearest_phase(steady: bool) -> None:
    """Let this process's sieves spend their whole budget from the first window on; where the first sweeps are not
    timed, let them be short."""
    vars(schedule)["SCORE_AFTER"] = 0
    vars(held_out)["DRAWS"] = 1 if steady else 16


class TimedRun:
    """One run, taken a block of windows at a time.

    Args:
        name: of ``VARIANTS``.
        data: dataset folder; its planted groups are condemned before the first window, so that what is timed is how
            fast the run is once it has decided, not how soon it decides.
        folder: of the run, written anew.
        audit: of the base model, for the looked-up reference.
    """

    def __init__(self, name: str, data: Path, folder: Path, audit: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        steady = not name.endswith("first sweeps")
        overrides = [
            f"output={folder}", f"model.path={MODEL}", f"data.path={data / 'train'}",
            f"data.held_out_path={data / 'held_out'}", "train.steps=1000000", "validation.every=0",
            "checkpoint.every=0", "filter.held_out_per_window=null",
            *[item.format(audit=audit) for item in VARIANTS[name]],
        ]  # fmt: skip
        self.name = name
        config = load_settings(RunConfig, CONFIGS / "openmoji.yaml", overrides)
        _begin_with_the_dearest_phase(steady)
        self.session: Session = set_up(config)
        self._condemn(planted_groups(data))
        if steady:
            self._know_all_draws()
        self._windows: Iterator[Window] = iter(self.session.loader)

    def _condemn(self, groups: list[str]) -> None:
        session = self.session
        if session.filter is None or session.filter.config.rule != "evidence":
            return
        session.filter.condemned.update(dict.fromkeys(groups, 0))
        if session.sieve is not None:
            session.sieve.append(groups, 1)

    def _know_all_draws(self) -> None:
        """Go on at the step from which the reference is not asked about held-out pairs any more."""
        session = self.session
        if session.turns is not None and session.scorer is not None:
            step = 0
            for _ in range(session.turns.new_turns):
                while session.turns.at(step) is None:
                    step += 1
                session.turns.score(step, session.scorer)
                step += 1
            while session.turns.at(step) is None:
                step += 1
            session.step = step

    def block(self, windows: int) -> dict[str, float]:
        """Seconds by the wall and of the processor, updates, and samples read (skipped ones included) of the next
        ``windows`` windows."""
        accounting = self.session.records.accounting
        updates, read = self.session.updates, accounting.read
        started, worked = time.perf_counter(), time.process_time()
        for _ in range(windows):
            train_window(self.session, self._windows)
        seconds, cpu = time.perf_counter() - started, time.process_time() - worked
        return {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "updates": self.session.updates - updates,
            "read": accounting.read - read,
        }
