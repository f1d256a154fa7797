"""A pair is one observation, however often it was drawn or read."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, mannwhitneyu

from benchmarks.copying.intervals import auc_of, found_at, interval, proportion, ratio, share_of
from memsieve.filtering.statistics import auc


def test_a_pair_is_found_above_all_but_one_percent_of_clean_pairs() -> None:
    clean = [float(i) for i in range(200)]  # two may lie above the bar: 198 and 199
    assert found_at(197.5, clean) == 1.0
    assert found_at(197.0, clean) == 0.0
    assert found_at(None, clean) == 0.0
    assert auc_of(99.5, clean) == pytest.approx(0.5)
    assert auc_of(0.0, [0.0, 1.0]) == pytest.approx(0.25)  # a tie counts half
    assert auc_of(5.0, [None, 1.0]) == 1.0


def test_intervals() -> None:
    sure = interval([1.0] * 20)
    assert sure is not None and sure.high == 1.0 and 0.8 < sure.low < 0.9  # Wilson: resampling would say 1 to 1
    some = interval([0.0, 0.5, 1.0] * 10)
    assert some is not None and 0.3 < some.low < some.value < some.high < 0.7
    assert interval([]) is None


def test_over_planted_pairs_the_mean_is_the_auc() -> None:
    """By Mann and Whitney's U, ties and pairs without a score among them."""
    rng = np.random.default_rng(0)
    planted = rng.normal(0.7, 1.0, 40).round(1).tolist()
    clean = rng.normal(0.0, 1.0, 300).round(1).tolist()
    u = mannwhitneyu(planted, clean, method="asymptotic").statistic
    assert np.mean([auc_of(score, clean) for score in planted]) == pytest.approx(u / (40 * 300))
    assert np.mean([auc_of(score, clean) for score in planted]) == pytest.approx(
        auc(np.array(planted), np.array(clean))
    )
    unscored = [None, *clean]
    assert auc_of(None, unscored) == pytest.approx(0.5 / 301) and auc_of(-99.0, unscored) == pytest.approx(1 / 301)


@pytest.mark.parametrize("hits", [0, 1, 7, 20])
def test_of_what_is_either_or_the_interval_is_wilsons(hits: int) -> None:
    figure = interval([1.0] * hits + [0.0] * (20 - hits))
    expected = binomtest(hits, 20).proportion_ci(method="wilson")
    assert figure is not None and (figure.value, figure.pairs) == (hits / 20, 20)
    assert (figure.low, figure.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_share_of_nothing_is_no_number() -> None:
    assert proportion(0, 0) is None
    half = proportion(5, 10)
    assert half is not None and (half.value, half.pairs) == (0.5, 10) and 0.2 < half.low < half.high < 0.8


def test_a_ratio_is_of_sums_over_the_same_pairs() -> None:
    mine, theirs = [0.11, 0.22, 0.33], [0.1, 0.2, 0.3]
    found = ratio(mine, theirs)
    assert (found.value, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))
    spread = ratio([0.1, 0.4, 0.3], theirs)
    assert spread.value == pytest.approx(0.8 / 0.6) and spread.low < spread.value < spread.high


def test_a_share_of_another_methods_excess_has_an_interval_of_both() -> None:
    values, controls = ([0.3] * 10 + [0.5] * 10, [0.9] * 20), ([0.1] * 10 + [0.3] * 10, [0.1] * 20)
    found = share_of(values, controls)
    assert found is not None and found.value == pytest.approx(0.2 / 0.8) and 0.1 < found.low < 0.25 < found.high < 0.4
    assert share_of(([0.1], [0.1]), ([0.0], [0.2])) is None, "the other one comes to nothing"
    assert share_of(([], [0.1]), ([0.0], [0.0])) is None
