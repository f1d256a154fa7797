"""The share of generations that are copies, with intervals that know which generations belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from memsieve.inference.copies.judge import CopyVerdict

__all__ = ["CopyRate", "copy_rate", "wilson_interval"]


@dataclass(frozen=True, slots=True)
class CopyRate:
    """``copies`` of ``generations`` over ``prompts``: the rate, with two intervals of the same confidence.

    ``low, high`` come from resampling prompts and are the ones to quote, since generations of one prompt are not
    independent. ``pooled_low, pooled_high`` are Wilson's for independent generations: too narrow, for comparison.
    ``method`` is ``cluster_bootstrap``, or ``wilson_prompts`` where all prompts have one and the same rate (all 0, all
    1, or a single prompt), of which resampling can say nothing.
    """

    copies: int
    generations: int
    prompts: int
    rate: float
    low: float
    high: float
    pooled_low: float
    pooled_high: float
    confidence: float
    method: str


def wilson_interval(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a proportion; (0, 1) where there was no trial."""
    if trials <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    middle = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return (max(0.0, middle - half) if rate > 0 else 0.0), (min(1.0, middle + half) if rate < 1 else 1.0)


def copy_rate(
    verdicts: Sequence[CopyVerdict],
    prompts: Sequence[str] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> CopyRate:
    """The share of copies, with intervals; ``prompts`` says which generations belong together (default: by group).

    Raises:
        ValueError: no verdicts, or lengths that do not match.
    """
    names = [verdict.group for verdict in verdicts] if prompts is None else list(prompts)
    if not verdicts or len(names) != len(verdicts):
        raise ValueError(
            f"{len(verdicts)} verdicts and {len(names)} prompts: need at least one, and one prompt of each"
        )
    _, cluster = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)
    sizes = np.bincount(cluster)
    hits = np.bincount(cluster, weights=[float(verdict.is_copy) for verdict in verdicts])
    copies, rate, count = int(hits.sum()), float(hits.sum() / sizes.sum()), len(sizes)
    if np.ptp(hits / sizes) == 0:
        method, (low, high) = "wilson_prompts", wilson_interval(rate * count, count, confidence)
    else:
        method, (low, high) = "cluster_bootstrap", _resampled(hits, sizes, confidence, resamples, seed)
    pooled_low, pooled_high = wilson_interval(copies, len(verdicts), confidence)
    return CopyRate(
        copies, len(verdicts), count, rate, low, high, pooled_low, pooled_high, confidence=confidence, method=method
    )


def _resampled(
    hits: npt.NDArray[Any], sizes: npt.NDArray[Any], confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """The percentile interval of the rate over resampled prompts; ``hits`` and ``sizes`` of each prompt, [P]."""
    generator, count = np.random.default_rng(seed), len(sizes)
    rates = np.empty(resamples)
    for number in range(resamples):
        drawn = generator.integers(0, count, count)
        rates[number] = hits[drawn].sum() / sizes[drawn].sum()
    tail = (1 - confidence) / 2
    low, high = np.quantile(rates, [tail, 1 - tail])
    return float(low), float(high)
