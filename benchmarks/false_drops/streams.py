"""Synthetic streams whose truth is known, through the real filter: clean pairs with an effect each that stays, planted
ones whose effect grows with exposures.

A score is ``sqrt(c) effect + sqrt(1 - c) noise``, c the correlation of two visits of a pair; location and scale change
with t, as signals do. What a network would give is drawn; everything after it is memsieve's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.data.loader_sieve import DELAY
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.types import Measurement, Visit

__all__ = ["RATES", "Outcome", "Setting", "simulate"]

RATES = (0.01, 0.05, 0.1)
SIGNAL = "reference_ratio"  # one extra forward for a training visit, two for a held-out pair, as the default takes
ROWS = 32
CAPTION_DROPOUT = 0.1
GAINED_IN = 100
"""Visits in which a pair gains ``gap`` (``learned``)."""
RETURNS = 1.5
"""Standard deviations of a visit from which on a pair was learned so well that it may come back: what planted ones are
learned in 60 exposures."""
FILLER = "f"
"""A row of a pair that is read without its caption, and so is no evidence."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One kind of stream, and how the filter is set.

    Attributes:
        correlation: of two visits of one pair.
        tails: ``normal``, or ``heavy``: Student's t with 3 degrees of freedom, effects and noise alike.
        drift: ``none``; ``common``, all scores rise by two standard deviations; ``easier``, training pairs rise by
            ``gap`` more than held-out ones; ``learned``, each by ``gap`` in a hundred visits of its own.
        order: ``epochs``, every pair once an epoch; ``repeats``, pairs at random, some ten times as often as others.
        budget: of the sieve; None is ``apply: batch``.
        gap: how far training pairs drift from held-out ones by the end, in standard deviations of a visit.
        visits: a pair's mean number of visits.
        sooner: how many times as often pairs come round after the first third of the run: until then rows of others
            stand between them, which a sieve or ``data.repeats`` then leaves out.
        unlike: spread of the logarithm of what a pair gains by its visits (``learned``).
    """

    correlation: float = 0.1
    tails: str = "normal"
    drift: str = "none"
    order: str = "epochs"
    held_out: int = 128
    rate: float = 0.05
    budget: float | None = None
    gap: float = 0.15
    visits: int = 100
    clean: int = 192
    planted: int = 8
    dropout: float = CAPTION_DROPOUT
    sooner: int = 1
    unlike: float = 0.0

    @property
    def name(self) -> str:
        """Says what differs from the defaults."""
        plain = Setting()
        names = ("correlation", "tails", "drift", "order", "held_out", "rate", "gap", "visits", "clean", "planted",
                 "dropout", "sooner", "unlike")  # fmt: skip
        said = [f"{name} {getattr(self, name)}" for name in names if getattr(self, name) != getattr(plain, name)]
        mode = "batch" if self.budget is None else f"sieve {self.budget}"
        return ", ".join([mode, *said])


@dataclass(slots=True)
class Outcome:
    """``passed``: share of clean pairs whose p-value was at most a rate at any look, by rate; ``condemned``: the share
    that was condemned at the setting's rate; ``exposures``: of each planted pair when it was condemned, None where it
    never was; ``measured``: measured visits of a clean pair, mean; ``returning``: clean pairs that would be learned so
    well in the end that they come back, which the shares leave out, and how many of them were condemned."""

    condemned: float
    passed: dict[str, float]
    exposures: list[int | None]
    measured: float
    sweeps: int
    overfitting: bool
    returning: tuple[int, int] = (0, 0)


class Stream:
    """Draws scores, and the order of visits."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting = setting
        self.rng = np.random.default_rng(seed)
        self.names = [f"c{i}" for i in range(setting.clean)] + [f"p{i}" for i in range(setting.planted)]
        self.held_out = [f"h{i}" for i in range(setting.held_out)]
        everyone = [*self.names, *self.held_out]
        self.effect = dict(zip(everyone, self._draw(len(everyone)).tolist(), strict=True))
        self.trained = dict.fromkeys([*everyone, FILLER], 0)
        self.effect[FILLER] = 0.0
        self.windows = setting.visits * len(self.names) // ROWS
        self.progress = 0.0
        self.gains = dict.fromkeys(everyone, setting.gap / GAINED_IN)
        if setting.unlike:
            drawn = self.rng.normal(-0.5 * setting.unlike**2, setting.unlike, len(everyone))
            self.gains = {g: gain * float(f) for (g, gain), f in zip(self.gains.items(), np.exp(drawn), strict=True)}

    def _draw(self, count: int) -> np.ndarray:
        if self.setting.tails == "heavy":
            return self.rng.standard_t(3, count) / 3**0.5
        return self.rng.normal(size=count)

    def scores(self, groups: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and timesteps of one visit each, at the present state of the run."""
        s = self.setting
        effect = np.array([self.effect[g] for g in groups])
        x = s.correlation**0.5 * effect + (1 - s.correlation) ** 0.5 * self._draw(len(groups))
        if s.drift == "common":
            x = x + 2.0 * self.progress
        train = np.array([not g.startswith("h") for g in groups])
        if s.drift == "easier":
            x = x + s.gap * self.progress * train
        x = x + np.array([self.learned(g) for g in groups])
        t = self.rng.integers(0, 1000, len(groups))
        return 0.1 * x * (1 + t / 500) + t / 250, t

    def learned(self, group: str) -> float:
        """What a pair's own visits have made of its scores, in standard deviations of a visit."""
        if group.startswith("p"):
            return min(2.0, self.trained[group] / 40)
        learns = self.setting.drift == "learned" and group.startswith("c")
        return self.gains[group] * self.trained[group] if learns else 0.0

    def returns(self, group: str) -> bool:
        """Whether a clean pair comes back in the end where nobody takes it out: its own visits teach it so much."""
        read = self.setting.visits * (2.0 + 1.0 / self.setting.sooner) / 3.0
        return self.setting.drift == "learned" and self.gains[group] * read >= RETURNS

    def measurement(self, groups: list[str], drawn: np.ndarray | None = None) -> Measurement:
        """What the network would have given."""
        x, t = self.scores(groups)
        usable = np.ones(len(groups), dtype=bool) if drawn is None else drawn
        values = {SIGNAL: torch.from_numpy(1.0 - np.exp(-x))}
        return Measurement(values, t.astype(np.int64), usable, drawn)

    def order(self) -> Iterator[str]:
        """Names, without end; in the first third of the run ``FILLER`` stands between them (``sooner``)."""
        for name in self._all():
            if self.progress < 1 / 3:
                yield from [FILLER] * (self.setting.sooner - 1)
            yield name

    def _all(self) -> Iterator[str]:
        weights = np.exp(self.rng.uniform(0.0, np.log(10.0), len(self.names)))
        weights /= weights.sum()
        while True:
            if self.setting.order == "epochs":
                yield from (self.names[i] for i in self.rng.permutation(len(self.names)))
            else:
                yield from (self.names[i] for i in self.rng.choice(len(self.names), len(self.names), p=weights))


class Run:
    """The loop of a training run without the training: reads, measures, decides, and skips what is condemned."""

    def __init__(self, setting: Setting, seed: int, **options: Any) -> None:
        self.setting, self.stream = setting, Stream(setting, seed)
        self.sieve = setting.budget is not None
        chosen = {
            "signals": [SIGNAL], "record": [], "false_drop_rate": setting.rate, "held_out_per_window": ROWS,
            "max_drop_fraction": 1.0, **options,
        }  # fmt: skip
        if self.sieve:
            chosen |= {"apply": "sieve", "score_budget": setting.budget}
        self.filter = MemorizationFilter(FilterConfig(**chosen))
        self.filter.held_out.check(setting.held_out)
        self.lowest: dict[str, float] = {}
        self.first: dict[str, int] = {}
        self._skipped: set[str] = set()
        self._pending: deque[tuple[int, str]] = deque()
        self._order = self.stream.order()
        self._turn = 0
        self._decisions = np.random.default_rng((seed, 1))

    def window(self) -> None:
        """Read, measure and decide; then close."""
        filter, stream = self.filter, self.stream
        names = self._read()
        visits = [Visit(name, group=name, offset=i) for i, name in enumerate(names)]
        captioned = self._decisions.random(len(names)) >= self.setting.dropout
        captioned &= np.array([name != FILLER for name in names])
        drawn = captioned
        if self.sieve:
            plan = filter.begin_window(visits, captioned.tolist(), ROWS)
            assert plan is not None
            drawn = np.array(plan.visits) >= 0
            measured = stream.measurement(names, drawn)
        else:
            measured = stream.measurement(names)
            measured.usable = captioned
        decision = filter.decide(visits, measured)
        for name, weight in zip(names, decision.weights.tolist(), strict=True):
            stream.trained[name] += weight > 0
        self._calibrate()
        self._look(self.stream.names if filter.end_window() else names)
        if self.sieve:
            self._pending.extend((filter.step + DELAY, name) for name in filter.rule.latest)

    def _read(self) -> list[str]:
        while self._pending and self._pending[0][0] <= self.filter.step:
            self._skipped.add(self._pending.popleft()[1])
        names: list[str] = []
        while len(names) < ROWS:
            name = next(self._order)
            if name not in self._skipped:
                names.append(name)
        return names

    def _calibrate(self) -> None:
        filter, held_out = self.filter, self.stream.held_out
        count = min(ROWS, len(held_out))
        interval = filter.schedule.calibration_interval(ROWS, count, 2) if filter.schedule is not None else 1
        if filter.step % interval:
            return
        chosen = [held_out[(self._turn + i) % len(held_out)] for i in range(count)]
        self._turn += count
        filter.calibrate(chosen, self.stream.measurement(chosen))

    def _look(self, names: list[str]) -> None:
        table = self.filter.groups
        for name in dict.fromkeys(names):
            if (row := table.row(name)) >= 0:
                self.lowest[name] = min(self.lowest.get(name, 1.0), float(table["p_value"][row]))
        for name in self.filter.rule.latest:
            self.first.setdefault(name, int(table["exposures"][table.row(name)]))


def simulate(setting: Setting, seed: int, **options: Any) -> Outcome:
    """One stream from its first window to its last; ``options`` are laid over the filter's settings."""
    run = Run(setting, seed, **options)
    for number in range(run.stream.windows):
        run.stream.progress = number / run.stream.windows
        run.window()
    everyone = [name for name in run.stream.names if name.startswith("c")]
    clean = [name for name in everyone if not run.stream.returns(name)]
    back = set(everyone).difference(clean)
    table = run.filter.groups
    return Outcome(
        condemned=float(np.mean([name in run.first for name in clean])) if clean else 0.0,
        passed={str(rate): sum(run.lowest.get(n, 1.0) <= rate for n in clean) / max(len(clean), 1) for rate in RATES},
        exposures=[run.first.get(name) for name in run.stream.names if name.startswith("p")],
        measured=float(np.mean([table["scored"][table.row(name)] for name in clean])) if clean else 0.0,
        sweeps=run.filter.held_out.sweep,
        overfitting=run.filter.overfitting,
        returning=(len(back), sum(name in run.first for name in back)),
    )
