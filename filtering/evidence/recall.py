"""What drawings of pairs' captions came to: who comes back as their own picture, oftener than a person allows.

A drawing *comes back* where its margin to the own picture lies beyond what drawings of pairs that were never trained on
reach in a share ``rate`` of cases: the base's drawings of the training captions, made before the first step, and the
present model's of held-out captions. Nor does it where the base drew the very pair as near (``own_bars``). A pair is
*reached* where the chance that its drawings come back is above ``rate`` by an exact binomial test over its newest ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.stats import binom, binomtest

from memsieve.filtering.conformal import critical_value, smallest_rate
from memsieve.filtering.evidence.own_bars import own_bars

__all__ = ["RECENT", "Chance", "RecallEvidence"]

RECENT: Final = 8
"""Newest drawings of a pair that count: of a model that moves, older ones speak of another model."""
HELD_OUT_KEPT: Final = 128
"""Newest drawings of held-out captions that set the bar."""
LEVEL: Final = 0.01
"""Of the tests. With the usual rate of 1 %, two of the newest eight drawings must come back: one alone does so by
chance in every thirteenth pair."""

MANY: Final = 0.001
"""Probability that so many pairs are reached by chance, below which a run is said to copy: it is asked in every round.
"""


@dataclass(frozen=True, slots=True)
class Chance:
    """How often a pair's drawings come back: ``hits`` of ``drawings``, with an exact interval of 95 % (Clopper and
    Pearson, Biometrika 26, 1934)."""

    hits: int
    drawings: int

    @property
    def rate(self) -> float:
        """NaN where nothing was drawn."""
        return self.hits / self.drawings if self.drawings else math.nan

    @property
    def low(self) -> float:
        """The lower end of the interval; 0 where nothing was drawn."""
        return float(self._interval.low) if self.drawings else 0.0

    @property
    def high(self) -> float:
        """The upper end of the interval; 1 where nothing was drawn."""
        return float(self._interval.high) if self.drawings else 1.0

    @property
    def _interval(self) -> Any:
        return binomtest(self.hits, self.drawings).proportion_ci(0.95, "exact")

    def p_value(self, rate: float) -> float:
        """The probability of so many hits if the chance of each were ``rate``; 1 where nothing was drawn."""
        return float(binom.sf(self.hits - 1, self.drawings, rate)) if self.drawings else 1.0


class RecallEvidence:
    """Margins of drawings (see ``memsieve.inference.copies.recall``), by caption, and what they say of each pair.

    With one caption for several pairs a drawing can come back as any of them: as many more drawings count, and a pair
    is held to its share of the rate.

    Args:
        rate: the share of drawings in which a pair may come back.
        recent: newest drawings of a pair that count.

    Attributes:
        base: margins of drawings by the model before its first step.
        of_base: the same, by the pair whose picture is nearest, where that was told.
        held_out: of the newest drawings of held-out captions, by the model as it was then.
        recent: of each caption, the newest drawings: the pair whose picture is nearest, and the margin.
        asked: drawings of each caption so far, under "" of held-out ones.
        rounds: turns of drawing so far.
    """

    def __init__(self, rate: float, recent: int = RECENT) -> None:
        self.rate, self.counting = rate, recent
        self.base: list[float] = []
        self.of_base: dict[str, list[float]] = {}
        self._own_bars: dict[str, float] | None = None
        self.held_out: list[float] = []
        self.recent: dict[str, list[tuple[str, float]]] = {}
        self.asked: Counter[str] = Counter()
        self.rounds = 0
        self.pairs: dict[str, list[str]] = {}
        self._captions: dict[str, list[str]] = {}

    def know(self, pairs: Mapping[str, Sequence[str]]) -> None:
        """Which pairs there are: the groups of each caption."""
        self.pairs = {caption: list(groups) for caption, groups in pairs.items()}
        self._captions = {}
        for caption, groups in self.pairs.items():
            for group in groups:
                self._captions.setdefault(group, []).append(caption)

    @property
    def groups(self) -> list[str]:
        """All pairs that are known."""
        return list(self._captions)

    def add_base(self, margins: Sequence[float], groups: Sequence[str] | None = None) -> None:
        """Drawings before the first step, and the pairs that they are of."""
        self.base += [margin for margin in margins if math.isfinite(margin)]
        for group, margin in zip(groups or (), margins, strict=groups is not None):
            if math.isfinite(margin):
                self.of_base.setdefault(group, []).append(margin)
        self._own_bars = None

    def add_held_out(self, margins: Sequence[float]) -> None:
        """Drawings of held-out captions by the present model."""
        finite = [margin for margin in margins if math.isfinite(margin)]
        self.held_out = [*self.held_out, *finite][-HELD_OUT_KEPT:]
        self.asked[""] += len(margins)

    def add(self, caption: str, group: str, margin: float) -> None:
        """A drawing of a training caption, and the pair of that caption whose picture is nearest to it."""
        self.asked[caption] += 1
        if math.isfinite(margin):
            kept = self.counting * len(self.pairs.get(caption, [group]))
            self.recent[caption] = [*self.recent.get(caption, []), (group, margin)][-kept:]

    @property
    def bar(self) -> float:
        """The margin beyond which a drawing comes back; inf before the base was asked.

        Each reference says what it can: where there are too few held-out drawings for the rate, none of them lies above
        the bar. Never below 0: what comes back is nearest to its own picture.
        """
        if not self.base:
            return math.inf
        bars = [0.0]
        for margins in (self.base, self.held_out):
            if margins:
                bars.append(critical_value(np.array(margins), max(self.rate, smallest_rate(len(margins)))))
        return max(bars)

    def bar_of(self, group: str) -> float:
        """The margin beyond which a drawing comes back as ``group``: the bar of all, or its own if that is higher."""
        if self._own_bars is None:
            self._own_bars = own_bars(self.of_base, self.rate)
        return max(self.bar, self._own_bars.get(group, -math.inf))

    def _drawings(self, group: str) -> list[tuple[str, float]]:
        return [one for caption in self._captions.get(group, ()) for one in self.recent.get(caption, ())]

    def _sharing(self, group: str) -> int:
        """Pairs that have the caption of ``group``."""
        return max((len(self.pairs[caption]) for caption in self._captions.get(group, ())), default=1)

    def chance(self, group: str) -> Chance:
        """How often the pair comes back by now."""
        drawings, bar = self._drawings(group), self.bar_of(group)
        return Chance(sum(name == group and margin > bar for name, margin in drawings), len(drawings))

    def recall(self, group: str) -> float:
        """The pair's signal ``recall``: the mean margin of the newest drawings that are nearer to its picture than to
        another of their caption; NaN where there are none."""
        margins = [margin for name, margin in self._drawings(group) if name == group]
        return sum(margins) / len(margins) if margins else math.nan

    def p_value(self, group: str) -> float:
        """Of the test that the pair's chance of coming back is at most the rate."""
        return self.chance(group).p_value(self.rate / self._sharing(group))

    def reached(self, group: str) -> bool:
        """The pair comes back oftener than the rate allows."""
        return self.p_value(group) <= LEVEL

    def forgotten(self, group: str) -> bool:
        """None of the newest drawings comes back as the pair, and there are as many as count."""
        chance = self.chance(group)
        return chance.drawings >= self.counting * self._sharing(group) and chance.hits == 0

    def copies(self) -> list[str]:
        """Pairs that come back, where that is beyond chance for all pairs together: one of them for certain, by a test
        at ``LEVEL`` (Bonferroni), or more of them reached than pairs that never come back would be.

        A finding about the run: that one of many pairs is reached may be chance, this is not.
        """
        p_values = {group: self.p_value(group) for group in self._captions}
        certain = [group for group, p in p_values.items() if p <= LEVEL / len(p_values)]
        reached = [group for group, p in p_values.items() if p <= LEVEL]
        if binom.sf(len(reached) - 1, len(p_values), LEVEL) <= MANY:
            return reached
        return certain

    def rates(self) -> tuple[float, float]:
        """(share of the pairs' newest drawings whose own picture is nearest, share that comes back); of the base where
        nothing was drawn since, NaN before."""
        drawn = [one for recent in self.recent.values() for one in recent[-2:]]
        drawn = drawn or [(group, margin) for group, margins in self.of_base.items() for margin in margins]
        drawn = drawn or [("", margin) for margin in self.base]
        if not drawn:
            return math.nan, math.nan
        bars = {group: self.bar_of(group) for group in dict(drawn)}
        return sum(m > 0 for _, m in drawn) / len(drawn), sum(m > bars[group] for group, m in drawn) / len(drawn)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "base": list(self.base),
            "of_base": {group: list(margins) for group, margins in self.of_base.items()},
            "held_out": list(self.held_out),
            "recent": {caption: [list(one) for one in drawings] for caption, drawings in self.recent.items()},
            "asked": dict(self.asked),
            "rounds": self.rounds,
            "pairs": {caption: list(groups) for caption, groups in self.pairs.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        self.base, self.held_out = list(state["base"]), list(state["held_out"])
        self.of_base = {str(group): list(margins) for group, margins in state["of_base"].items()}
        self._own_bars = None
        self.recent = {
            str(caption): [(str(group), float(margin)) for group, margin in drawings]
            for caption, drawings in state["recent"].items()
        }
        self.asked = Counter({str(caption): int(count) for caption, count in state["asked"].items()})
        self.rounds = int(state["rounds"])
        self.know(state["pairs"])
