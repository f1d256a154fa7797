"""Which pairs stand out: those above a gap that a smooth tail does not have; none where there is no such gap."""

from __future__ import annotations

import numpy as np
import pytest

from memsieve.filtering.audit.standing_out import standing_out


def descending(values: np.ndarray) -> np.ndarray:
    return np.sort(values)[::-1]


@pytest.mark.parametrize("planted", [1, 6, 40])
def test_those_above_the_gap_are_counted_and_the_gap_is_where_it_is(planted: int) -> None:
    random = np.random.default_rng(0)
    ordinary, high = random.normal(0, 1, 1000), 8 + random.uniform(0, 3, planted)
    found = standing_out(descending(np.concatenate([ordinary, high])))
    assert found is not None and found.pairs == planted
    assert (found.lowest, found.next) == (high.min(), ordinary.max()) and ordinary.max() < found.cut < high.min()
    assert found.p_value < 1e-3 and found.as_dict()["pairs"] == planted


@pytest.mark.parametrize("tail", ["exponential", "normal", "uniform"])
def test_a_smooth_tail_has_no_gap_oftener_than_one_time_in_a_hundred(tail: str) -> None:
    random = np.random.default_rng(1)
    found = sum(standing_out(descending(getattr(random, tail)(size=400))) is not None for _ in range(500))
    assert found <= 15, "five of 500, and chance"


def test_few_pairs_equal_scores_and_what_has_no_score_say_nothing() -> None:
    assert standing_out(np.array([])) is None
    assert standing_out(descending(np.array([100.0, *np.arange(9.0)]))) is None
    assert standing_out(np.ones(500)) is None
    assert standing_out(descending(np.full(100, np.nan))) is None
