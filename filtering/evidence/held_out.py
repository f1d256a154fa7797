"""The held-out pairs: they get the same kind of visits, accumulate the same evidence, and so say what clean pairs come
to."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.conformal import conformal_p_value, critical_value, smallest_rate, smallest_reference
from memsieve.filtering.evidence.null import Means, Ordinary
from memsieve.filtering.evidence.table import (
    HALF_LIFE,
    MIN_SWEEPS,
    PATHS,
    EvidenceTable,
    Life,
    spread_of_clean_pairs,
    whole_life_maxima,
)

__all__ = ["HeldOutPairs"]

Array = npt.NDArray[np.float64]
SWEEPS_KEPT: Final = 16
AUTO: Final = 0.01
"""What ``false_drop_rate: auto`` comes to where there are pairs enough."""
AUTO_MOST: Final = 0.2
"""Above this ``auto`` drops nobody: every fifth clean pair is no rate that anybody means."""
HORIZON: Final = 64
"""Sweeps that the rate holds for; doubled where a run goes on for longer."""
FRESH: Final = 2
"""Of a held-out pair's paths, those that are drawn anew in a sweep: a bar that jumped would condemn when it dips."""
PACES: Final = (1, 2, 4, 8, 16)
"""Visits a sweep that paths are drawn with; a group is ranked among those of the next one above its own."""


class HeldOutPairs:
    """Held-out groups' evidence, and the bar that training groups are held to.

    Attributes:
        table: evidence of the held-out groups.
        sweep: how often every held-out group has been scored.
        due: a sweep has ended since the last window was closed.
        ordinary: what the evidence of ordinary training groups was found to be at the last look.
        spread: variance of scores within and between clean pairs, at the last look.
    """

    def __init__(self, config: FilterConfig) -> None:
        self.config = config
        self.table = EvidenceTable(HALF_LIFE, MIN_SWEEPS)
        self.sweep = 0
        self.due = False
        self._sweeps: list[dict[str, float]] = []
        self._this_sweep: dict[str, float] = {}
        self._since_new = 0
        self._expected: int | None = None
        self.ordinary = Ordinary()
        self.spread = (0.0, 1.0)
        self._whole_life: dict[int, Array] = {}
        self._horizon = 0
        self._bars: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.table)

    def observe(self, groups: Sequence[str], scores: Array, step: int) -> None:
        """Take in visits of held-out groups; a sweep is complete when a group comes round again."""
        for group, score in zip(groups, scores, strict=True):
            if group in self._this_sweep:
                self._sweeps = [*self._sweeps, self._this_sweep][-SWEEPS_KEPT:]
                self._this_sweep = {}
                self.sweep += 1
                self.due = True
            self._this_sweep[group] = float(score)
            known = len(self.table)
            self.table.observe([group], np.array([score]), np.array([np.nan]), step, self.sweep)
            self._since_new = 0 if len(self.table) > known else self._since_new + 1

    @property
    def ready(self) -> bool:
        """Groups can be compared."""
        return bool(self._whole_life)

    def look(self) -> Means:
        """After a sweep: how far clean pairs spread, and what the held-out ones come to now, which is one look."""
        self.spread = spread_of_clean_pairs(self._scores)
        known = self.table.means_now(*self.spread)
        self.table.look(np.where(self.table["scored"] >= self.table.first, known.evidence, np.nan))
        return known

    @property
    def _scores(self) -> Array:
        """[groups, sweeps] of the sweeps that are kept, NaN where a group was not scored."""
        return np.array([[sweep.get(name, np.nan) for sweep in self._sweeps] for name in self.table.names])

    def p_values(self, maxima: Array, paces: Array) -> Array:
        """The rank of each running maximum [N] among the held-out groups' and among those that clean pairs of the same
        pace [N] reach in a whole life, the larger of both, never below the resolution 1 / (n + 1)."""
        maxima = np.where(np.isfinite(maxima), maxima, -1e9)
        p_values = conformal_p_value(maxima, self.table["evidence_max"].astype(np.float64))
        pace_of = self._pace_of(paces)
        for pace, reached in self._whole_life.items():
            mine = pace_of == pace
            p_values[mine] = np.maximum(p_values[mine], conformal_p_value(maxima[mine], reached))
        return p_values

    def _pace_of(self, visits_a_sweep: Array) -> npt.NDArray[np.int64]:
        known = np.array(sorted(self._whole_life) or [1])
        return known[np.minimum(np.searchsorted(known, visits_a_sweep), len(known) - 1)]

    def draw_lives(self, fastest: float) -> None:
        """Bring the whole-life maxima up to date, for up to ``fastest`` visits a sweep: all drawn anew for a longer
        life, else some at a time."""
        scores = self._scores
        horizon, known = HORIZON, self.table
        while horizon < self.sweep:
            horizon *= 2
        if horizon != self._horizon:
            self._whole_life = dict.fromkeys(self._whole_life, np.zeros(0))
        self._horizon, self._bars = horizon, {}
        wanted = PACES[: 1 + int(np.searchsorted(PACES, fastest))]
        for pace in sorted({*self._whole_life, *wanted}):
            before = self._whole_life.get(pace, np.zeros(0))
            life = Life(known.half_life, pace, horizon, known.first)
            paths = FRESH if len(before) else PATHS
            drawn = whole_life_maxima(scores, *self.spread, life, paths=paths, seed=self.sweep)
            self._whole_life[pace] = np.concatenate([before, drawn])[-PATHS * len(scores) :]

    def bar(self, visits_a_sweep: float = 1.0) -> float:
        """Evidence that a running maximum must exceed to be condemned now; inf before the first comparison."""
        if not self.ready:
            return math.inf
        pace = int(self._pace_of(np.array([visits_a_sweep]))[0])
        if pace not in self._bars:  # kept: every verdict asks for one
            references = (self.table["evidence_max"], self._whole_life[pace])
            self._bars[pace] = max(critical_value(maxima, self.rate) for maxima in references)
        return self._bars[pace]

    @property
    def rate(self) -> float:
        """The false-drop rate that is held: as set; with ``auto``, and where a run only observes, no lower than what so
        many held-out pairs can tell."""
        asked, count = self.config.false_drop_rate, self._expected
        if asked == "auto":
            return max(AUTO, smallest_rate(len(self.table) if count is None else count))
        return max(asked, smallest_rate(count)) if count is not None and self.config.policy == "observe" else asked

    def check(self, count: int) -> None:
        """Refuse a held-out set whose resolution 1 / (n + 1) cannot express the false-drop rate; a run that only
        observes, and ``auto``, take the lowest rate that it can, and say so.

        Raises:
            ValueError: fewer groups than the rate needs.
        """
        compares = self.config.rule in ("evidence", "rank") and self.config.policy != "cap"
        if not compares:
            return
        if (
            self.config.policy != "observe"
            and self.config.false_drop_rate == "auto"
            and smallest_rate(count) > AUTO_MOST
        ):
            raise ValueError(
                f"filter.false_drop_rate: auto would be {smallest_rate(count):g} with {count} held-out groups, so that "
                "every few clean pairs are dropped; hold out more (data.held_out_path, data.held_out_fraction), set "
                "filter.policy: retire, which asks the model and needs none, or observe"
            )
        lenient = self.config.policy == "observe" or self.config.false_drop_rate == "auto"
        if count < self._needed and not lenient:
            more = f"hold out more (data.held_out_path, data.held_out_fraction){_rate_for(count)}"
            raise ValueError(
                f"{self._too_few(count)}; {more}, or set filter.policy: retire, which asks the model and needs none"
            )
        self._expected = count
        if lenient and self.rate > (AUTO if self.config.false_drop_rate == "auto" else self.config.false_drop_rate):
            warnings.warn(_lowest(count, self.rate), stacklevel=2)

    @property
    def shortage(self) -> str | None:
        """That there are too few groups for the rate, in words, once they have all been met: two rounds brought no new
        one (the end of a sweep does not say so, where a set holds a picture twice or is drawn from at random)."""
        config, count = self.config, len(self.table)
        compares = config.rule == "evidence" and config.policy != "cap"
        if not compares or count >= self._needed or self._since_new < 2 * max(count, 1):
            return None
        return f"{self._too_few(count)}, so that nobody is condemned; give calibrate more of them{_rate_for(count)}"

    @property
    def _needed(self) -> int:
        return smallest_reference(self.rate)

    def _too_few(self, count: int) -> str:
        return (
            f"filter.false_drop_rate: {self.rate:g} needs at least {self._needed} held-out groups "
            f"(resolution 1/(n+1)), and there are {count}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that later comparisons depend on."""
        return {
            "table": self.table.state_dict(),
            "sweep": self.sweep,
            "due": self.due,
            "sweeps": [dict(sweep) for sweep in self._sweeps],
            "this_sweep": dict(self._this_sweep),
            "since_new": self._since_new,
            "spread": list(self.spread),
            "whole_life": {pace: torch.from_numpy(maxima.copy()) for pace, maxima in self._whole_life.items()},
            "horizon": self._horizon,
            "ordinary": list(astuple(self.ordinary)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        self.table.load_state_dict(state["table"])
        self.sweep, self.due = int(state["sweep"]), bool(state["due"])
        self._sweeps = [dict(sweep) for sweep in state["sweeps"]]
        self._this_sweep, self._since_new = dict(state["this_sweep"]), int(state.get("since_new", 0))
        within, between = state["spread"]
        self.spread = (float(within), float(between))
        self._whole_life = {int(pace): maxima.numpy().copy() for pace, maxima in state["whole_life"].items()}
        self._horizon, self.ordinary = int(state["horizon"]), Ordinary(*state["ordinary"])
        self._bars = {}


def _rate_for(count: int) -> str:
    return f", or set false_drop_rate to {smallest_rate(count):g} or more" if count else ""


def _lowest(count: int, rate: float) -> str:
    if not count:
        return "no pair is held out: the filter compares nobody (data.held_out_path, data.held_out_fraction)"
    return (
        f"filter.false_drop_rate: {rate:g} is the lowest that {count} held-out pairs can tell, and is used: so "
        "many clean pairs would be condemned too"
    )
