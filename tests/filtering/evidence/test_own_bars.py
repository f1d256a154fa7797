"""A pair's own bar: what a further drawing of it by the base would come to."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from memsieve.filtering.evidence.own_bars import own_bars
from memsieve.filtering.evidence.recall import RecallEvidence


def test_a_further_drawing_passes_it_in_the_share_that_is_asked() -> None:
    """Pairs of their own means; 2,000 times three drawings of each of 20, and one more."""
    rng = np.random.default_rng(0)
    beyond = []
    for _ in range(2000):
        means = rng.normal(0.0, 3.0, 20)
        bars = own_bars({str(i): rng.normal(mean, 0.5, 3).tolist() for i, mean in enumerate(means)}, 0.05)
        beyond += [rng.normal(mean, 0.5) > bars[str(i)] for i, mean in enumerate(means)]
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.005)


def test_it_is_the_prediction_bound() -> None:
    bars = own_bars({"a": [1.0, 3.0], "b": [0.0, 0.0, 0.0], "one": [9.0]}, 0.01)
    spread = (2.0 / 3.0) ** 0.5
    assert set(bars) == {"a", "b"}
    assert bars["a"] == pytest.approx(2.0 + stats.t.ppf(0.99, 3) * spread * 1.5**0.5)
    assert own_bars({"one": [9.0]}, 0.01) == {} and own_bars({}, 0.01) == {}


def test_what_the_base_draws_as_near_does_not_come_back_and_a_copy_does() -> None:
    """One pair of 40 whose caption says all of its picture: the bar of all pairs lets it pass, its own does not."""
    rng = np.random.default_rng(1)
    names = [f"pair {i}" for i in range(40)]
    near = {name: 0.3 if name == "pair 0" else -0.3 for name in names}
    plain, evidence = RecallEvidence(0.03), RecallEvidence(0.03)
    for one in (plain, evidence):
        one.know({f"a {name}": [name] for name in names})
    drawn = [(name, rng.normal(near[name], 0.1)) for name in names for _ in range(5)]
    plain.add_base([margin for _, margin in drawn])
    evidence.add_base([margin for _, margin in drawn], [name for name, _ in drawn])
    for margin in rng.normal(0.3, 0.1, 8):
        for one in (plain, evidence):
            one.add("a pair 0", "pair 0", float(margin))
    assert plain.copies() == ["pair 0"] and evidence.copies() == []
    assert evidence.bar_of("pair 0") > evidence.bar == plain.bar
    assert evidence.bar_of("nobody") == evidence.bar
    for _ in range(4):
        evidence.add("a pair 0", "pair 0", 1.5)
    assert evidence.reached("pair 0") and evidence.copies() == ["pair 0"]
