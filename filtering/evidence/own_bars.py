"""What one more drawing of a pair by the base would come to: a bar of the pair's own.

A base may draw something near to a pair's picture without having seen it, where the caption says all of it. In the
drawings of all pairs together such a pair is lost; held to their bar alone it would be said to come back at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from scipy import stats

__all__ = ["FEWEST", "own_bars"]

FEWEST: Final = 2
"""Drawings of a pair below which they say nothing of their spread, nor of its mean."""


def own_bars(base: Mapping[str, Sequence[float]], rate: float) -> dict[str, float]:
    """The margin that a further drawing of each pair passes with a chance of ``rate``: mean + t s √(1 + 1/n), a
    prediction bound with the spread s within pairs, which all of them have in common.

    Args:
        base: margins of the base's drawings, by pair. Those with fewer than two have no bar of their own.
        rate: in (0, 1).
    """
    known = {name: np.array(margins, dtype=np.float64) for name, margins in base.items() if len(margins) >= FEWEST}
    freedom = sum(len(margins) - 1 for margins in known.values())
    if not freedom:
        return {}
    spread = math.sqrt(sum(float(((margins - margins.mean()) ** 2).sum()) for margins in known.values()) / freedom)
    quantile = float(stats.t.ppf(1.0 - rate, freedom))
    return {
        name: float(margins.mean()) + quantile * spread * math.sqrt(1.0 + 1.0 / len(margins))
        for name, margins in known.items()
    }
