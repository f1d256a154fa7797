"""What evidence ordinary training pairs come to, which is more than held-out pairs do.

A model denoises whatever it was trained on a little better than what it never saw, memorised or not. Ranked among
held-out pairs alone, ordinary training pairs would be condemned for being training pairs. Most groups are ordinary, so
the middle of their evidence says what is ordinary, as in Efron's empirical null (JASA 99, 2004): evidence of training
groups is moved and scaled until its median, and its spread from the lower quartile to the 5/8 quantile, are those of
the held-out groups. The shape of the tail stays the held-out groups'. Memorised groups all lie above: where there are
many, they would widen the upper quartile, and hide behind each other; of the middle that is true from about a third on.

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

from filtering.exchange import Exchange

__all__ = ["MIN_GROUPS", "Ordinary", "ordinary_among", "ordinary_of"]

Array = npt.NDArray[np.float64]
MIN_GROUPS: Final = 50
"""With fewer groups, as in a set of twenty images, nothing says that most are ordinary: evidence stays as it is."""
_LIMIT, _STEP = 40.0, 0.01
_QUANTILES: Final = (0.25, 0.5, 0.625)


@dataclass(frozen=True, slots=True)
class Ordinary:
    """``evidence -> target + (evidence - median) / scale``, where that is less than the evidence itself.

    ``median`` and ``scale`` (1 or more) are the training groups', against held-out groups with median ``target``.
    """

    median: float = 0.0
    target: float = 0.0
    scale: float = 1.0

    def __call__(self, evidence: Array) -> Array:
        """Evidence as it compares with held-out groups'; never more than it was."""
        return np.minimum(evidence, self.target + (evidence - self.median) / self.scale)

    def cutoff(self, value: float) -> float:
        """The evidence that compares as ``value`` does: what lies beyond it lies beyond ``value`` after the move."""
        return max(value, self.median + (value - self.target) * self.scale)


def ordinary_of(evidence: Array, held_out: Array, exchange: Exchange, rare: int = 0) -> Ordinary:
    """Fit to the evidence of this rank's training groups and all held-out groups; one collective.

    Counts in fixed bins are summed over ranks, so that the fit does not depend on which rank holds which group.

    Args:
        evidence: of the groups that were read often enough to be compared, and measured at least once, [N].
        held_out: evidence of all held-out groups, [M].
        exchange: with the other ranks.
        rare: this rank's groups that were read more rarely.
    """
    edges = np.arange(-_LIMIT, _LIMIT + _STEP / 2, _STEP)
    counts, _ = np.histogram(np.clip(evidence, -_LIMIT, _LIMIT), edges)
    *summed, rarely = exchange.sum([*counts.astype(np.float64).tolist(), float(rare)])
    total = np.cumsum(summed)
    if total[-1] < MIN_GROUPS or total[-1] <= rarely:
        return Ordinary()
    lower, middle, upper = (float(edges[1 + np.searchsorted(total, q * total[-1])]) for q in _QUANTILES)
    target_lower, target, target_upper = (float(q) for q in np.quantile(held_out, _QUANTILES))
    return _fitted(middle, target, (upper - lower) / max(target_upper - target_lower, 1e-3))


def ordinary_among(values: Array, held_out: Array) -> Ordinary:
    """A like fit to all values at once, in whatever unit: an audit's scores of training and of held-out pairs. By the
    upper quartile: an audit's pairs are mostly read once, and its scores are skewed."""
    if len(values) < MIN_GROUPS:
        return Ordinary()
    middle, upper = (float(q) for q in np.quantile(values, [0.5, 0.75]))
    target, target_upper = (float(q) for q in np.quantile(held_out, [0.5, 0.75]))
    return _fitted(middle, target, (upper - middle) / max(target_upper - target, 1e-12))


def _fitted(middle: float, target: float, scale: float) -> Ordinary:
    return Ordinary(max(middle, target), target, max(1.0, scale))
