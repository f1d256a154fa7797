"""Statistics that are needed in more than one place."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["MAD_TO_SIGMA", "auc", "median_and_spread"]

Array = npt.NDArray[np.float64]
MAD_TO_SIGMA: Final = 1.4826
"""What the median absolute deviation of a normal distribution is multiplied by to be its standard deviation."""


def median_and_spread(values: Array) -> tuple[Any, Any]:
    """Median and 1.4826 MAD of ``values`` [N, ...] along the first axis: what outliers do not move."""
    middle = np.median(values, axis=0)
    return middle, MAD_TO_SIGMA * np.median(np.abs(values - middle), axis=0)


def auc(positive: Array, negative: Array) -> float:
    """Probability that a value of ``positive`` [n] lies above one of ``negative`` [m], ties counting half (Mann &
    Whitney, 1947)."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    not_above = np.searchsorted(ordered, positive, side="right")
    return float((below + not_above).sum() / (2 * len(positive) * len(negative)))
