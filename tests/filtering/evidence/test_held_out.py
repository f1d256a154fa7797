"""In a loop of one's own nobody calls ``check``: too few held-out pairs are refused as soon as they are known."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch

from memsieve import FilterConfig
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.settings import SettingsError, parse_settings
from memsieve.filtering.signals import Predictions
from memsieve.filtering.types import Visit


def run(held_out: list[str], rounds: int = 4, per_window: int = 4, **options: Any) -> MemorizationFilter:
    """A filter in a loop that gives it ``held_out`` in turn, ``rounds`` times."""
    sieve = MemorizationFilter(**{"signals": ["loss"], "record": [], **options})
    generator = torch.Generator().manual_seed(0)

    def measured(count: int) -> Any:
        noise = torch.zeros(count, 16)
        losses = torch.rand(count, 16, generator=generator)
        return sieve.measure(Predictions(noise, losses), torch.full((count,), 10))

    turns = held_out * rounds
    for start in range(0, len(turns) or per_window * 40, per_window):
        sieve.decide([Visit(f"c{i}") for i in range(4)], measured(4))
        if groups := turns[start : start + per_window]:
            sieve.calibrate(groups, measured(len(groups)))
        sieve.end_window()
    return sieve


def names(count: int) -> list[str]:
    return [f"h{i}" for i in range(count)]


def test_too_few_held_out_pairs_are_refused_in_ones_own_loop_and_both_ways_out_work() -> None:
    with pytest.raises(ValueError, match=r"needs at least 49 held-out groups.* and there are 20, .* nobody") as refused:
        run(names(20), false_drop_rate=0.02)
    advised = float(re.search(r"set false_drop_rate to ([\d.]+) or more", str(refused.value)).group(1))  # type: ignore[union-attr]
    assert 1 / 21 <= advised < 1.01 / 21
    assert run(names(20), false_drop_rate=advised).held_out.bar() < float("inf"), "somebody can be condemned"
    assert run(names(49), false_drop_rate=0.02).held_out.bar() < float("inf")
    with pytest.raises(ValueError, match="at least 21 held-out groups"):  # any lower rate is refused again
        run(names(20), false_drop_rate=1 / 22)


def test_where_nobody_is_dropped_too_few_held_out_pairs_are_a_warning_once() -> None:
    with pytest.warns(UserWarning, match="and there are 20") as told:
        run(names(20), false_drop_rate=0.02, policy="observe")
    assert len([warning for warning in told if "held-out" in str(warning.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(names(20), false_drop_rate=0.02, policy="cap")  # compares with nobody


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


def test_a_filter_that_is_never_calibrated_says_so_and_the_way_out_needs_no_held_out_pairs() -> None:
    with pytest.warns(UserWarning, match="no held-out pair was given in 20 windows") as told:
        run([])
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run([], rule="z_score", threshold=4.0)
        run([], policy="cap")
        run(names(99), rounds=1)


def test_a_bank_that_cannot_express_the_rate_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"at least 9999 measurements .* and 2048 are kept; raise the rate"):
        parse_settings(FilterConfig, {"rule": "rank", "false_drop_rate": 0.0001})
    parse_settings(FilterConfig, {"rule": "rank", "false_drop_rate": 0.0005})
