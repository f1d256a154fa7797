"""Statistics against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from memsieve.filtering.statistics import auc, median_and_spread


def test_auc_is_the_share_of_couples_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 9, 37).astype(float), rng.integers(0, 7, 53).astype(float)
    couples = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert auc(positive, negative) == pytest.approx(np.mean(couples))
    assert auc(np.array([2.0]), np.array([1.0])) == 1.0 and auc(np.array([1.0]), np.array([1.0])) == 0.5


def test_median_and_spread_of_a_normal_sample_whatever_a_tenth_of_it_is() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, (20000, 2))
    values[:1000] = 1e9
    middle, spread = median_and_spread(values)
    assert middle == pytest.approx([3.0, 3.0], abs=0.2) and spread == pytest.approx([2.0, 2.0], rel=0.1)
