"""What ordinary training pairs come to: fitted to the middle of them, taken from everybody's evidence."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from memsieve.filtering.evidence.null import MIN_GROUPS, Means, Ordinary, ordinary_cutoff, ordinary_of
from memsieve.filtering.exchange import Exchange


def fit(training: np.ndarray, held_out: np.ndarray, exchange: Exchange | None = None, rare: int = 0) -> Ordinary:
    """Of groups with unit spread, all of them measured."""
    both = (Means(values, np.ones(len(values))) for values in (training, held_out))
    return ordinary_of(*both, exchange or Exchange(), len(training), rare)


def test_evidence_is_moved_by_what_is_ordinary_in_units_of_the_groups_own_spread() -> None:
    ordinary = Ordinary(shift=1.0, target=0.5, scale=2.0)
    moved = ordinary(np.array([3.0, 3.0, -5.0]), np.array([1.0, 0.5, 1.0]))
    assert moved.tolist() == [0.5 + (3.0 - 1.0 - 0.5) / 2.0, 0.5 + (3.0 - 2.0 - 0.5) / 2.0, -5.0], "never to more"
    as_it_is = np.array([-3.0, 0.0, 7.5, np.nan])
    assert np.array_equal(Ordinary()(as_it_is, np.ones(4)), as_it_is, equal_nan=True)


def test_the_evidence_of_means_is_in_units_of_their_spread() -> None:
    assert Means(np.array([1.0, -2.0]), np.array([0.5, 4.0])).evidence.tolist() == [2.0, -0.5]


def test_what_is_ordinary_is_moved_and_scaled_and_a_few_memorised_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    held_out = rng.normal(size=4000)
    training = np.concatenate([0.8 + 1.4 * rng.normal(size=4000), np.full(80, 9.0)])
    ordinary, one = fit(training, held_out), np.ones(len(training))
    assert ordinary.shift == pytest.approx(0.8, abs=0.1) and ordinary.scale == pytest.approx(1.4, rel=0.1)
    moved = ordinary(training, one)
    assert np.quantile(moved[:4000], 0.95) == pytest.approx(np.quantile(held_out, 0.95), abs=0.2)
    assert moved[-1] > 5.0 and (moved <= training).all()
    crowd = np.concatenate([training, 9.0 + rng.normal(size=1300)])  # a quarter is memorised: the upper half is wide
    z, share = NormalDist().inv_cdf, len(crowd) / 4000
    widened = 1.4 * (z(0.625 * share) - z(0.25 * share)) / (z(0.625) - z(0.25))
    beside = fit(crowd, held_out)
    assert beside.scale == pytest.approx(widened, rel=0.05), "not what the memorised ones come to"
    moved = beside(crowd, np.ones(len(crowd)))
    assert np.quantile(moved[-1300:], 0.01) > np.quantile(moved[:4000], 0.99)
    tamer = fit(-1.0 + 0.5 * rng.normal(size=4000), held_out)
    assert np.allclose(tamer(training, one), training, rtol=0.0, atol=1e-12), "only ever against condemning"
    assert fit(training[: MIN_GROUPS - 1], held_out) == Ordinary()
    assert fit(training, held_out, rare=len(training) - 1) == ordinary
    assert fit(training, held_out, rare=len(training)) == Ordinary(), "most come round too rarely"


def test_the_move_is_as_large_as_a_groups_own_visits_make_it() -> None:
    """An advantage of every visit counts more in the evidence of a group that was measured often. Most groups were
    measured once: their middle says how large it is, and those that are compared are moved by more than theirs."""
    rng = np.random.default_rng(3)
    within, between, gain = 0.9, 0.1, 0.4
    visits = np.where(rng.random(6000) < 0.7, 1, 8)
    spreads = np.sqrt(between + within / visits)
    held_out = Means(
        np.sqrt(between + within / 40) * rng.normal(size=2000), np.full(2000, np.sqrt(between + within / 40))
    )
    training = Means(gain + spreads * rng.normal(size=6000), spreads)
    ordinary = ordinary_of(training, held_out, Exchange(), 6000, 0)
    moved = ordinary(training.evidence, spreads)
    assert ordinary.shift == pytest.approx(gain, abs=0.05)
    for count in (1, 8):
        assert np.mean(moved[visits == count] > 1.645) == pytest.approx(0.05, abs=0.012)


def test_the_median_that_is_told_is_that_of_the_evidence_as_it_is() -> None:
    """By it a person is told that half of the groups lie beyond the bar: nothing is taken from it."""
    rng = np.random.default_rng(5)
    ordinary = fit(6.0 + rng.normal(size=2001), rng.normal(size=2000))
    assert ordinary.median == pytest.approx(6.0, abs=0.1) and ordinary.shift == pytest.approx(6.0, abs=0.15)
    assert abs(float(np.median(ordinary(6.0 + rng.normal(size=2001), np.ones(2001))))) < 0.2


def test_scores_beyond_all_measure_count_as_the_largest() -> None:
    rng = np.random.default_rng(6)
    held_out, ordinary = rng.normal(size=500), rng.normal(size=500)
    large = np.concatenate([ordinary, np.full(50, 30.0)])
    beyond = np.concatenate([ordinary, np.full(49, 1e200), [np.inf]])
    assert fit(beyond, held_out) == fit(large, held_out)
    assert fit(np.full(60, 1e3), held_out).median == pytest.approx(40.0), "where nobody is ordinary, that is told"


class Sharing(Exchange):
    """Adds what another rank counted, call by call."""

    def __init__(self, other: list[list[float]]) -> None:
        super().__init__()
        self.other, self.given = iter(other), list[list[float]]()

    def sum(self, values: list[float]) -> list[float]:
        self.given.append(values)
        return [a + b for a, b in zip(values, next(self.other, [0.0] * len(values)), strict=True)]


def test_the_fit_does_not_depend_on_the_ranks() -> None:
    rng = np.random.default_rng(1)
    training, held_out = rng.normal(0.5, 1.5, 300), rng.normal(size=128)
    first = Sharing([])
    fit(training[:100], held_out, first)
    second = Sharing(first.given[:1])
    fit(training[100:], held_out, second)
    together = fit(training, held_out)
    assert fit(training[:100], held_out, Sharing(second.given)) == together and together.scale > 1.2


def test_ranks_exchange_equally_much_whether_or_not_something_is_known() -> None:
    rng = np.random.default_rng(7)
    shapes = []
    for count, rare in ((0, 0), (MIN_GROUPS - 1, 0), (300, 0), (300, 900)):
        exchange = Sharing([])
        fit(rng.normal(size=count), rng.normal(size=64), exchange, rare)
        shapes.append([len(values) for values in exchange.given])
    assert shapes == [shapes[0]] * 4 and len(shapes[0]) == 2


def test_an_audits_cutoff_is_moved_and_widened_as_its_scores_are_and_never_lowered() -> None:
    held_out = np.linspace(-1.0, 1.0, 401)  # median 0, upper quartile 0.5
    assert ordinary_cutoff(2.0 * held_out + 1.0, held_out, 0.9) == pytest.approx(1.0 + 0.9 * 2.0)
    assert ordinary_cutoff(held_out, held_out, 0.9) == pytest.approx(0.9)
    assert ordinary_cutoff(0.5 * held_out - 3.0, held_out, 0.9) == pytest.approx(0.9), "tamer scores change nothing"
    assert ordinary_cutoff(0.5 * held_out + 1.0, held_out, 0.9) == pytest.approx(1.0 + 0.9), "nor do they narrow"
    assert ordinary_cutoff(2.0 * held_out - 3.0, held_out, 0.9) == pytest.approx(0.9 * 2.0), "nor is it moved down"
    assert ordinary_cutoff(2.0 * held_out - 3.0, held_out, -0.5) == -0.5
    few = 2.0 * held_out[: MIN_GROUPS - 1] + 9.0
    assert ordinary_cutoff(few, held_out, 0.9) == 0.9, "a few scores do not say what is ordinary"
