"""How many pairs of an audit stand out from the others, and where the gap is below them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from memsieve.filtering.audit.table import Array

__all__ = ["StandingOut", "standing_out"]

LARGEST_SHARE: Final = 0.1
"""Of all pairs, that can stand out from the others."""
MOST: Final = 10_000
FEWEST: Final = 30
"""Pairs below which a gap says nothing."""
CHANCE: Final = 0.01
"""That a gap is found where there is none."""


@dataclass(frozen=True, slots=True)
class StandingOut:
    """The ``pairs`` with the highest scores, all of at least ``lowest``; the next one has ``next``.

    ``p_value`` is the chance of such a gap in a smooth tail.
    """

    pairs: int
    lowest: float
    next: float
    p_value: float

    @property
    def cut(self) -> float:
        """A cut-off in the middle of the gap."""
        return (self.lowest + self.next) / 2

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"pairs": self.pairs, "lowest": self.lowest, "next": self.next, "p_value": self.p_value}


def standing_out(descending: Array) -> StandingOut | None:
    """The pairs above the gap that a smooth tail would least show; None where no gap is that unlikely.

    Of scores with an exponential tail the spacings s_k - s_(k+1), each times k, are independent draws of one
    exponential (Rényi, 1953), so that a gap is judged by how far the largest of them lies beyond the others. Tails that
    fall faster have smaller gaps there: of them it finds less, not more.

    Args:
        descending: scores [N], highest first.
    """
    scores = descending[np.isfinite(descending)]
    most = min(int(LARGEST_SHARE * len(scores)), MOST)
    if len(scores) < FEWEST or most < 1:
        return None
    spacings = np.arange(1, most + 1) * (scores[:most] - scores[1 : most + 1])
    # The usual spacing is taken over twice as many, most of them of pairs that do not stand out.
    wide = min(2 * most + 20, len(scores) - 1)
    usual = float(np.median(np.arange(1, wide + 1) * (scores[:wide] - scores[1 : wide + 1]))) / math.log(2)
    place = int(np.argmax(spacings))
    if not usual > 0.0:  # many equal scores: there is no usual spacing to compare with
        return None
    p_value = float(-np.expm1(most * np.log1p(-np.exp(-spacings[place] / usual))))
    if not p_value <= CHANCE:
        return None
    return StandingOut(place + 1, float(scores[place]), float(scores[place + 1]), p_value)
