"""What drawings say of pairs: the bar, the test, its interval, forgetting, and one caption for several pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from memsieve.filtering.evidence.recall import LEVEL, RECENT, Chance, RecallEvidence


def asked(margins: dict[str, list[float]], rate: float = 0.01) -> RecallEvidence:
    """Evidence of pairs with captions of their own, whose base came to -1 to 0.1."""
    evidence = RecallEvidence(rate)
    evidence.know({f"a {name}": [name] for name in margins})
    evidence.add_base(np.linspace(-1.0, 0.1, 100).tolist())
    for name, values in margins.items():
        for margin in values:
            evidence.add(f"a {name}", name, margin)
    return evidence


def test_the_bar_is_what_the_base_reaches_in_a_share_of_cases() -> None:
    evidence = asked({})
    assert evidence.bar == pytest.approx(0.1), "of 100 drawings 1 % is the largest alone: it must be exceeded"
    assert RecallEvidence(0.01).bar == math.inf, "before the base was asked nothing comes back"
    loose = RecallEvidence(0.1)
    loose.add_base(np.linspace(0.0, 1.0, 99).tolist())
    assert sum(margin > loose.bar for margin in loose.base) == 9


def test_held_out_drawings_raise_the_bar_and_never_lower_it_below_the_own_picture() -> None:
    evidence = asked({})
    evidence.add_held_out([-0.5, 0.4, math.nan])
    assert evidence.bar == pytest.approx(0.4), "few as they are, none of them comes back"
    below = RecallEvidence(0.01)
    below.add_base([-1.0] * 200)
    assert below.bar == 0.0, "what comes back is nearest to its own picture"


def test_one_drawing_of_eight_is_chance_and_two_are_not() -> None:
    evidence = asked({"once": [1.0, *[-0.5] * 7], "twice": [1.0, 1.0, *[-0.5] * 6], "never": [-0.5] * 8})
    assert [evidence.reached(name) for name in ("once", "twice", "never")] == [False, True, False]
    assert evidence.chance("twice") == Chance(2, 8)
    assert evidence.p_value("twice") == pytest.approx(float(binom.sf(1, 8, 0.01)))
    assert evidence.recall("twice") == pytest.approx((2 * 1.0 - 6 * 0.5) / 8)
    assert math.isnan(evidence.recall("nobody")) and evidence.p_value("nobody") == 1.0


def test_a_pair_that_never_comes_back_is_seldom_reached() -> None:
    """At the rate itself the test errs in less than its level, whatever the number of drawings."""
    for drawings in range(1, RECENT + 1):
        errs = sum(
            float(binom.pmf(hits, drawings, 0.01))
            for hits in range(drawings + 1)
            if Chance(hits, drawings).p_value(0.01) <= LEVEL
        )
        assert errs <= LEVEL


def test_the_interval_holds_the_rate_that_it_is_of() -> None:
    chance = Chance(2, 8)
    assert chance.low < 0.25 < chance.high
    assert binom.sf(1, 8, chance.low) == pytest.approx(0.025) and binom.cdf(2, 8, chance.high) == pytest.approx(0.025)
    assert (Chance(0, 8).low, Chance(8, 8).high) == (0.0, 1.0) and math.isnan(Chance(0, 0).rate)


def test_a_pair_is_forgotten_when_all_that_counts_is_below_the_bar() -> None:
    evidence = asked({"one": [1.0, 1.0]})
    for _ in range(RECENT - 1):
        evidence.add("a one", "one", -0.5)
        assert not evidence.forgotten("one")
    evidence.add("a one", "one", -0.5)
    assert evidence.forgotten("one") and not evidence.reached("one")


def test_with_one_caption_for_all_a_drawing_is_of_the_pair_that_it_comes_back_as() -> None:
    evidence = RecallEvidence(0.01)
    evidence.know({"sks dog": ["p", "q", "r", "s"]})
    evidence.add_base([0.0] * 100)
    for group in ("p", "q", "p", "r") * RECENT:
        evidence.add("sks dog", group, 1.0 if group == "p" else -0.1)
    assert evidence.chance("p") == Chance(2 * RECENT, 4 * RECENT) and evidence.chance("s") == Chance(0, 4 * RECENT)
    assert evidence.reached("p") and not evidence.reached("q")
    assert evidence.p_value("p") == Chance(2 * RECENT, 4 * RECENT).p_value(0.01 / 4)


def test_that_pairs_come_back_is_said_of_the_run_only_beyond_chance_for_all_of_them() -> None:
    many = {f"pair {i}": [-0.5] * 8 for i in range(100)}
    chance = asked({**many, "twice": [1.0, 1.0, *[-0.5] * 6]})
    assert chance.reached("twice") and chance.copies() == []
    certain = asked({**many, "often": [1.0] * 4 + [-0.5] * 4})
    assert certain.copies() == ["often"]
    several = asked({**many, **{f"twice {i}": [1.0, 1.0, *[-0.5] * 6] for i in range(6)}})
    assert several.copies() == [f"twice {i}" for i in range(6)], "six of 106 are too many"


def test_rates_are_the_bases_before_anything_else_is_drawn() -> None:
    evidence = asked({})
    own, back = evidence.rates()
    assert own == pytest.approx(np.mean(np.linspace(-1.0, 0.1, 100) > 0)) and back == 0.0
    later = asked({"one": [-1.0, 1.0], "two": [0.05, 0.05]})
    assert later.rates() == (0.75, 0.25)
    assert all(math.isnan(rate) for rate in RecallEvidence(0.01).rates())


def test_it_goes_on_exactly() -> None:
    before = asked({"one": [1.0, -1.0], "two": []})
    before.add_held_out([0.2])
    before.rounds = 3
    after = RecallEvidence(0.01)
    after.load_state_dict(before.state_dict())
    for evidence in (before, after):
        evidence.add("a one", "one", 1.0)
    assert after.state_dict() == before.state_dict() and after.groups == before.groups
    assert after.chance("one") == before.chance("one") and after.bar == before.bar
