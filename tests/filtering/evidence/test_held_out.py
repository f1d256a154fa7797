"""In a loop of one's own nobody calls ``check``: too few held-out pairs are refused as soon as they are known."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.conformal import smallest_rate
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.signals import Predictions
from tests.filtering.evidence.own_loop import names, run
from tests.filtering.streams import make


def test_too_few_held_out_pairs_are_refused_in_ones_own_loop_and_both_ways_out_work() -> None:
    with pytest.raises(ValueError, match=r"needs at least 49 held-out groups.* and there are 20, .* nobody") as refused:
        run(names(20), false_drop_rate=0.02)
    advised = float(re.search(r"set false_drop_rate to ([\d.]+) or more", str(refused.value)).group(1))  # type: ignore[union-attr]
    assert 1 / 21 <= advised < 1.01 / 21
    assert run(names(20), false_drop_rate=advised).held_out.bar() < float("inf"), "somebody can be condemned"
    assert run(names(49), false_drop_rate=0.02).held_out.bar() < float("inf")
    with pytest.raises(ValueError, match="at least 21 held-out groups"):  # any lower rate is refused again
        run(names(20), false_drop_rate=1 / 22)


def test_a_held_out_set_is_counted_when_all_of_it_was_met() -> None:
    """A picture that comes twice ends a sweep early; that is not the whole set."""
    doubled = [name for name in names(60) for _ in range(2)]
    assert run(doubled, false_drop_rate=0.02).held_out.bar() < float("inf")


def test_a_restored_filter_still_knows_what_it_has_met() -> None:
    sieve = run(names(20), rounds=2, false_drop_rate=0.02)
    fresh = MemorizationFilter(sieve.config)
    fresh.load_state_dict(sieve.state_dict())
    measured = fresh.measure(Predictions(torch.zeros(20, 16), torch.ones(20, 16)), torch.full((20,), 10))
    fresh.calibrate(names(20), measured)
    with pytest.raises(ValueError, match="and there are 20"):
        fresh.end_window()


def test_too_few_held_out_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"filter\.false_drop_rate: 0\.01 needs at least 99 held-out groups"):
        make(false_drop_rate=0.01).held_out.check(98)
    make(false_drop_rate=0.01).held_out.check(99)


def test_a_cap_compares_nothing_and_needs_no_held_out_pairs() -> None:
    HeldOutPairs(FilterConfig(policy="cap")).check(0)
    with pytest.raises(ValueError, match="at least 99 held-out groups"):
        HeldOutPairs(FilterConfig()).check(0)


def test_auto_takes_the_lowest_rate_that_the_held_out_pairs_can_tell() -> None:
    def rate(count: int, **options: Any) -> float:
        held_out = make(false_drop_rate="auto", **options).held_out
        held_out.check(count)
        return held_out.rate

    assert rate(500) == rate(99) == 0.01
    with pytest.warns(
        UserWarning, match=r"filter\.false_drop_rate: 0\.0477 is the lowest that 20 held-out pairs can tell"
    ):
        assert rate(20) == 0.0477
    with pytest.raises(ValueError, match=r"auto would be 0\.334 with 2 held-out groups, .* filter\.policy: retire"):
        rate(2)
    with pytest.warns(UserWarning, match="is the lowest"):
        assert rate(2, policy="observe") == 0.334
    with warnings.catch_warnings(action="error"):  # what is set can be told
        make(false_drop_rate=0.1, policy="observe").held_out.check(24)


@pytest.mark.parametrize("count", [0, 1, 2, 98])
def test_a_run_that_only_observes_takes_any_number(count: int) -> None:
    held_out = make(false_drop_rate=0.01, policy="observe").held_out
    with pytest.warns(UserWarning, match="no pair is held out" if not count else "is the lowest"):
        held_out.check(count)
    assert held_out.rate == smallest_rate(count)
    with pytest.raises(ValueError, match=r"at least 99 held-out groups .* or set filter\.policy: retire"):
        make(false_drop_rate=0.01).held_out.check(count)
