"""p-values, bars and reference sizes are one and the same rule."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memsieve.filtering.conformal import conformal_p_value, critical_value, smallest_rate, smallest_reference

RATES = (0.5, 0.3, 0.1, 0.07, 0.05, 1 / 3, 0.01, 0.003)


@pytest.mark.parametrize("rate", RATES)
def test_the_smallest_reference_can_hold_the_rate_and_one_fewer_cannot(rate: float) -> None:
    needed = smallest_reference(rate)
    assert 1 / (needed + 1) <= rate + 1e-12 and 1 / needed > rate
    assert math.isfinite(critical_value(np.arange(needed, dtype=float), rate))
    assert critical_value(np.arange(needed - 1, dtype=float), rate) == math.inf


def test_thirteen_are_too_few_for_seven_percent() -> None:
    assert smallest_reference(0.07) == 14, "1 / 14 is above .07, 1 / 15 below"


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("count", [20, 99, 333, 1000])
def test_a_score_exceeds_the_critical_value_where_its_p_value_is_at_most_the_rate(rate: float, count: int) -> None:
    rng = np.random.default_rng(count)
    reference = rng.integers(0, 40, count).astype(float)  # with ties
    scores = rng.integers(-2, 42, 500).astype(float)
    passed = conformal_p_value(scores, reference) <= rate + 1e-12
    assert (passed == (scores > critical_value(reference, rate))).all()


@pytest.mark.parametrize("count", [1, 2, 13, 99, 100, 128, 999, 5000])
def test_the_smallest_rate_needs_no_more_than_there_are(count: int) -> None:
    rate = smallest_rate(count)
    assert smallest_reference(rate) <= count and 1 / (count + 1) <= rate < 1.2 / (count + 1)


def test_what_is_not_finite() -> None:
    reference = np.array([1.0, 2.0, np.nan, np.inf])
    assert conformal_p_value(np.array([1.5]), reference) == pytest.approx(2 / 3)
    assert np.isnan(conformal_p_value(np.array([np.nan]), reference)).all()
