"""What evidence ordinary training pairs come to, which is more than held-out pairs do.

A model denoises whatever it was trained on a little better than what it never saw, memorised or not. Ranked among
held-out pairs alone, ordinary training pairs would be condemned for being training pairs. Most groups are ordinary, so
the middle of their scores says what is ordinary, as in Efron's empirical null (JASA 99, 2004): from each group's mean
score is taken what the median group has more than the median held-out one, and evidence is scaled until its spread from
the lower quartile to the 5/8 quantile is the held-out groups'. The shape of the tail stays the held-out groups'.
Memorised groups all lie above: where there are many, they would widen the upper quartile, and hide behind each other;
of the middle that is true from about a third on.

Ordinary is what most groups are: all that were read often enough are counted, however little of it was measured, since
a schedule measures suspicious ones most. Where most come round too rarely, as in a single pass over data with
duplicates, the groups that were read often are the duplicates themselves: their middle says what memorisation comes to,
and evidence stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from memsieve.filtering.exchange import Exchange

__all__ = ["MIN_GROUPS", "Means", "Ordinary", "ordinary_cutoff", "ordinary_of"]

Array = npt.NDArray[np.float64]
MIN_GROUPS: Final = 50
"""With fewer groups, as in a set of twenty images, nothing says that most are ordinary: evidence stays as it is."""
_LIMIT, _STEP = 40.0, 0.01
_QUANTILES: Final = (0.25, 0.5, 0.625)


@dataclass(frozen=True, slots=True)
class Ordinary:
    """``T -> target + (T - shift / spread - target) / scale``, where that is less than T itself.

    ``shift``: what the median training group's mean score has more than the median held-out group's; ``target``: the
    held-out groups' median T; ``scale`` (1 or more): how much wider the training groups' T is spread. ``median``: of
    the training groups' T, as it is.
    """

    shift: float = 0.0
    target: float = 0.0
    scale: float = 1.0
    median: float = 0.0

    def __call__(self, evidence: Array, spread: Array) -> Array:
        """T [N] of groups whose mean scores spread by ``spread`` [N], as it compares with held-out groups'; never more
        than it was."""
        moved = self.target + (evidence - self.shift / spread - self.target) / self.scale
        return np.minimum(evidence, moved)


@dataclass(frozen=True, slots=True)
class Means:
    """Groups' discounted mean scores [N], and what such means spread over clean pairs [N]."""

    means: Array
    spreads: Array

    @property
    def evidence(self) -> Array:
        """T, [N]."""
        return self.means / self.spreads


def ordinary_of(training: Means, held_out: Means, exchange: Exchange, often: int, rare: int) -> Ordinary:
    """Fit to this rank's training groups and all held-out groups; two collectives.

    Counts in fixed bins are summed over ranks, so that the fit does not depend on which rank holds which group.

    Args:
        training: the groups that were read often enough to be compared, and measured at least once.
        held_out: all held-out groups.
        exchange: with the other ranks.
        often: this rank's groups that were read often enough, measured or not.
        rare: this rank's groups that were read more rarely.
    """
    *means, frequent, rarely = exchange.sum([*_counts(training.means), float(often), float(rare)])
    known = sum(means) >= MIN_GROUPS and frequent > rarely
    shift = max(_quantiles(means)[1] - float(np.nanmedian(held_out.means)), 0.0) if known else 0.0
    raw, moved = _counts(training.evidence), _counts(training.evidence - shift / training.spreads)
    both = exchange.sum([*raw, *moved])
    if not known:
        return Ordinary()
    lower, _, upper = _quantiles(both[len(raw) :])
    target_lower, target, target_upper = (float(q) for q in np.nanquantile(held_out.evidence, _QUANTILES))
    scale = (upper - lower) / max(target_upper - target_lower, 1e-3)
    return Ordinary(shift, target, max(1.0, scale), _quantiles(both[: len(raw)])[1])


def _edges() -> Array:
    return np.arange(-_LIMIT, _LIMIT + _STEP / 2, _STEP)


def _counts(values: Array) -> list[float]:
    edges = _edges()  # the last lies a rounding below _LIMIT: what was clipped to that would not be counted
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    numbers: list[float] = counts.astype(np.float64).tolist()
    return numbers


def _quantiles(counts: list[float]) -> tuple[float, float, float]:
    """The quantiles that the fit goes by, of values counted in bins."""
    total, edges = np.cumsum(counts), _edges()
    lower, middle, upper = (float(edges[1 + np.searchsorted(total, q * total[-1])]) for q in _QUANTILES)
    return lower, middle, upper


def ordinary_cutoff(values: Array, held_out: Array, cutoff: float) -> float:
    """What an audit's score must exceed so that, after a like fit, it lies beyond ``cutoff``; never less than that. By
    the upper quartile: an audit's pairs are mostly read once, and its scores are skewed."""
    if len(values) < MIN_GROUPS:
        return cutoff
    middle, upper = (float(q) for q in np.quantile(values, [0.5, 0.75]))
    target, target_upper = (float(q) for q in np.quantile(held_out, [0.5, 0.75]))
    scale = max(1.0, (upper - middle) / max(target_upper - target, 1e-12))
    return max(cutoff, max(middle, target) + (cutoff - target) * scale)
