"""The held-out groups as a panel: they get the same kind of visits, accumulate the same evidence, and so say what
clean pairs come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from filtering.config import FilterConfig
from filtering.exchange import Exchange
from filtering.history import PATHS, EvidenceTable, spread_of_clean_pairs, whole_life_maxima
from filtering.ordinary import Ordinary, ordinary_of

__all__ = ["HeldOutPanel"]

Array = npt.NDArray[np.float64]
SWEEPS_KEPT: Final = 16
FRESH: Final = 2
"""Of a held-out pair's paths, those that are drawn anew at a look: a bar that jumped would condemn whenever it dips."""


class HeldOutPanel:
    """Held-out groups' evidence, and the bar that training groups are held to.

    Attributes:
        table: evidence of the held-out groups.
        sweep: how often every held-out group has been scored.
        due: a sweep has ended and nothing was compared since.
        ordinary: what the evidence of ordinary training groups was found to be at the last look.
    """

    def __init__(self, config: FilterConfig) -> None:
        self.config = config
        self.table = EvidenceTable(config.half_life, config.min_sweeps)
        self.sweep = 0
        self.due = False
        self._sweeps: list[dict[str, float]] = []
        self._this_sweep: dict[str, float] = {}
        self.ordinary = Ordinary()
        self._whole_life: Array = np.zeros(0)
        self._horizon = 0
        self._bar: float | None = None

    def __len__(self) -> int:
        return len(self.table)

    def observe(self, groups: Sequence[str], scores: Array, step: int) -> None:
        """Take in visits of held-out groups; a sweep is complete when a group comes round again."""
        self._bar = None
        for group, score in zip(groups, scores, strict=True):
            if group in self._this_sweep:
                self._sweeps = [*self._sweeps, self._this_sweep][-SWEEPS_KEPT:]
                self._this_sweep = {}
                self.sweep += 1
                self.due = True
            self._this_sweep[group] = float(score)
            self.table.observe([group], np.array([score]), np.array([np.nan]), step, self.sweep)

    def judge(self, groups: EvidenceTable, exchange: Exchange) -> npt.NDArray[np.int64]:
        """One look: rank ``groups`` among clean pairs; the rows that pass the bar and were not condemned before.

        All ranks look together, each at its own share.
        """
        self.due, self._bar = False, None
        config = self.config
        if self.sweep < config.min_sweeps or config.calibrator != "conformal":
            return np.zeros(0, dtype=np.int64)
        scores = np.array([[sweep.get(name, np.nan) for sweep in self._sweeps] for name in self.table.names])
        within, between = spread_of_clean_pairs(scores)
        self.table.look(self.table.evidence_now(within, between))
        evidence = groups.evidence_now(within, between)
        rare = int((groups["exposures"] < groups.first).sum())
        self.ordinary = ordinary_of(evidence[np.isfinite(evidence)], self.table["evidence"], exchange, rare)
        groups.look(self.ordinary(evidence))
        self._draw(scores, within, between)
        groups.rank_against(self.table, self._whole_life)
        return np.flatnonzero((groups["p_value"] <= config.false_drop_rate) & (groups["condemned_step"] < 0))

    def _draw(self, scores: Array, within: float, between: float) -> None:
        """Bring the whole-life maxima up to date: all drawn anew for a longer life, else some at a time."""
        horizon = self.config.horizon
        while horizon < self.sweep:
            horizon *= 2
        fresh = PATHS if horizon != self._horizon else FRESH
        self._horizon = horizon
        drawn = whole_life_maxima(
            scores,
            within,
            between,
            half_life=self.config.half_life,
            horizon=horizon,
            first=self.config.min_sweeps,
            paths=fresh,
            seed=self.sweep,
        )
        self._whole_life = np.concatenate([self._whole_life, drawn])[-PATHS * len(scores) :]

    @property
    def bar(self) -> float:
        """Evidence that a running maximum must exceed to be condemned now; inf before the first comparison."""
        if self._bar is None:  # kept: every verdict of a window asks for it
            self._bar = self._compute_bar()
        return self._bar

    def _compute_bar(self) -> float:
        bars = []
        for maxima in (self.table["evidence_max"], self._whole_life):
            ordered = np.sort(maxima)[::-1]
            allowed = math.floor(self.config.false_drop_rate * (len(ordered) + 1) + 1e-9) - 1
            bars.append(float(ordered[allowed]) if 0 <= allowed < len(ordered) else math.inf)
        return max(bars)

    def check(self, count: int) -> None:
        """Refuse a held-out set whose resolution 1 / (n + 1) cannot express the false-drop rate.

        Raises:
            ValueError: fewer groups than the rate needs.
        """
        needed = math.ceil(1.0 / self.config.false_drop_rate - 1e-9) - 1
        if self.config.calibrator == "conformal" and count < needed:
            raise ValueError(
                f"filter.false_drop_rate: {self.config.false_drop_rate} needs at least {needed} held-out groups "
                f"(resolution 1/(n+1)), and there are {count}; hold out more (data.held_out_path, "
                "data.held_out_fraction) or raise the rate"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything that later comparisons depend on."""
        return {
            "table": self.table.state_dict(),
            "sweep": self.sweep,
            "due": self.due,
            "sweeps": [dict(sweep) for sweep in self._sweeps],
            "this_sweep": dict(self._this_sweep),
            "whole_life": torch.from_numpy(self._whole_life.copy()),
            "horizon": self._horizon,
            "ordinary": [self.ordinary.median, self.ordinary.target, self.ordinary.scale],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        self.table.load_state_dict(state["table"])
        self.sweep, self.due = int(state["sweep"]), bool(state["due"])
        self._sweeps = [dict(sweep) for sweep in state["sweeps"]]
        self._this_sweep = dict(state["this_sweep"])
        self._whole_life = state["whole_life"].numpy().copy()
        self._horizon, self.ordinary = int(state["horizon"]), Ordinary(*state["ordinary"])
        self._bar = None
