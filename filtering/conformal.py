"""Ranks among a reference that is known to be clean: p-values, the bar that goes with a rate, and how large the
reference must be. Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World (2005), section 2.2.

With n reference values a p-value is a multiple of 1 / (n + 1): no rate below it can be held.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["conformal_p_value", "critical_value", "smallest_rate", "smallest_reference"]

Array = npt.NDArray[np.float64]
_ROUNDING = 1e-9  # 1 / .01 is no whole number in floating point


def conformal_p_value(scores: Array, reference: Array) -> Array:
    """p = (1 + #{reference >= score}) / (1 + n) for each score [N]; NaN scores give NaN, and reference values that are
    not finite do not count."""
    ordered = np.sort(reference[np.isfinite(reference)])
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return np.where(np.isfinite(scores), (1.0 + at_least) / (1.0 + len(ordered)), np.nan)


def critical_value(reference: Array, rate: float) -> float:
    """The value of ``reference`` [n] that a score must exceed for p <= ``rate``; inf where n is too small for it."""
    ordered = np.sort(reference)
    allowed = math.floor(rate * (len(ordered) + 1) + _ROUNDING) - 1
    return float(ordered[len(ordered) - 1 - allowed]) if 0 <= allowed < len(ordered) else math.inf


def smallest_reference(rate: float) -> int:
    """Reference values that ``rate`` needs: the least n with 1 / (n + 1) <= rate."""
    return math.ceil(1.0 / rate - _ROUNDING) - 1


def smallest_rate(count: int) -> float:
    """The least rate that ``count`` reference values can hold, rounded up to the digits that say so."""
    scale = 10 ** (len(str(count)) + 2)
    return math.ceil(scale / (count + 1)) / scale
