"""Numbers with their intervals: a pair is one observation, however often it was drawn or read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from memsieve.inference.copies.rate import wilson_interval

__all__ = ["RESAMPLES", "Figure", "auc_of", "found_at", "interval", "proportion", "raised", "ratio", "share_of"]

RESAMPLES: Final = 2000
FALSE_DROPS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its 95 % interval, and how many pairs it rests on."""

    value: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def interval(values: Sequence[float], proportion: bool = True) -> Figure | None:
    """Mean of one value a pair. Resamples pairs; where all are alike, of which resampling can say nothing, or each is 0
    or 1, Wilson's interval."""
    if not values:
        return None
    each = np.asarray(values, dtype=np.float64)
    mean, count = float(each.mean()), len(each)
    if proportion and (np.ptp(each) == 0 or set(each.tolist()) <= {0.0, 1.0}):
        return Figure(mean, *wilson_interval(mean * count, count), count)
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    low, high = np.quantile(each[drawn].mean(1), [0.025, 0.975])
    return Figure(mean, float(low), float(high), count)


def _ordered(scores: Iterable[float | None]) -> np.ndarray:
    """What has no score ranks below everything."""
    return np.sort(np.array([-math.inf if score is None else score for score in scores]))


def raised(score: float | None, by: float) -> float | None:
    return score + by if score is not None else (by or None)


def found_at(score: float | None, clean: Sequence[float | None], rate: float = FALSE_DROPS) -> float:
    """1 where a pair ranks above all but the share ``rate`` of the clean pairs, else 0."""
    ordered = _ordered(clean)
    bar = ordered[len(ordered) - 1 - math.floor(rate * len(ordered))]
    return float(score is not None and score > bar)


def auc_of(score: float | None, clean: Sequence[float | None]) -> float:
    """Share of clean pairs that a pair ranks above, ties counting half: over planted pairs its mean is the AUC."""
    ordered, value = _ordered(clean), -math.inf if score is None else score
    below = np.searchsorted(ordered, value, side="left")
    return float(below + np.searchsorted(ordered, value, side="right")) / 2 / len(ordered)


def proportion(hits: int, count: int) -> Figure | None:
    """A share of ``count``, with Wilson's interval."""
    return Figure(hits / count, *wilson_interval(hits, count), count) if count else None


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Sum of one value a pair over the sum of others for the same pairs; resamples pairs."""
    ours, others = np.asarray(mine, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    drawn = np.random.default_rng(0).integers(0, len(ours), (RESAMPLES, len(ours)))
    low, high = np.quantile(ours[drawn].sum(1) / others[drawn].sum(1), [0.025, 0.975])
    return Figure(float(ours.sum() / others.sum()), float(low), float(high), len(ours))


def share_of(values: Sequence[Sequence[float]], less: Sequence[Sequence[float]]) -> Figure | None:
    """Of two methods, the first one's mean as a share of the second's, each less the mean of its own controls.
    Resamples the values of each; None where the second comes to nothing.

    Args:
        values: one a pair, of either method.
        less: of controls, one a pair, of either method.
    """
    if not all(len(one) for one in (*values, *less)):
        return None
    rng = np.random.default_rng(0)
    means = [[np.asarray(one, dtype=np.float64) for one in side] for side in (values, less)]
    mine, theirs = (float(means[0][i].mean() - means[1][i].mean()) for i in (0, 1))
    if theirs <= 0.0:
        return None
    drawn = [[one[rng.integers(0, len(one), (RESAMPLES, len(one)))].mean(1) for one in side] for side in means]
    above, below = (drawn[0][i] - drawn[1][i] for i in (0, 1))
    shares = np.where(below > 0.0, above / np.where(below > 0.0, below, 1.0), np.inf)
    low, high = np.quantile(shares, [0.025, 0.975])
    return Figure(mine / theirs, float(low), float(high), len(values[0]))
