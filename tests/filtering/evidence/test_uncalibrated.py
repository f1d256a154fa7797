"""Where held-out pairs are missing or too few, a person is told, or the run refused: nobody would be condemned."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.evidence.uncalibrated import PATIENCE, Uncalibrated
from tests.filtering.evidence import own_loop
from tests.filtering.evidence.own_loop import names, run


def beside(held_out: int = 0, rounds: int = 1, **options: object) -> Uncalibrated:
    """Beside ``held_out`` pairs that were met ``rounds`` times."""
    config = FilterConfig(signals=["loss"], record=[], **options)
    pairs = HeldOutPairs(config)
    for step in range(rounds):
        pairs.observe(names(held_out), np.zeros(held_out), step)
    return Uncalibrated(config, pairs)


def silent(teller: Uncalibrated, steps: range, needed: bool = True, short: bool = False) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in steps:
            teller.say(step, "evidence", needed, short)


def test_where_nobody_is_dropped_too_few_held_out_pairs_are_a_warning_once() -> None:
    with pytest.warns(UserWarning, match="and there are 20") as told:
        run(names(20), false_drop_rate=0.02, policy="observe")
    assert len([warning for warning in told if "held-out" in str(warning.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(names(20), false_drop_rate=0.02, policy="cap")  # compares with nobody


def test_a_filter_that_is_never_calibrated_says_so_and_the_way_out_needs_no_held_out_pairs() -> None:
    with pytest.warns(UserWarning, match="no held-out pair was given in 20 windows") as told:
        run([])
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run([], rule="z_score", threshold=4.0)
        run([], policy="cap")
        run(names(99), rounds=1)


def test_the_warning_points_at_the_line_that_closes_the_window() -> None:
    with pytest.warns(UserWarning, match="no held-out pair was given") as told:
        run([])
    assert told[0].filename == own_loop.__file__
    with pytest.warns(UserWarning, match="and there are 20") as told:
        run(names(20), false_drop_rate=0.02, policy="observe")
    assert told[0].filename == own_loop.__file__


@pytest.mark.parametrize("rule", ["evidence", "rank"])
def test_that_nobody_calibrates_is_said_in_one_window_by_the_rules_name(rule: str) -> None:
    teller = beside(rule=rule)
    silent(teller, range(1, PATIENCE))
    with pytest.warns(UserWarning, match=rf"given in {PATIENCE} windows, and the rule '{rule}' drops nobody"):
        teller.say(PATIENCE, rule, True, False)
    silent(teller, range(PATIENCE + 1, 3 * PATIENCE))


def test_one_held_out_pair_a_cap_or_a_rule_that_needs_none_are_enough() -> None:
    every = range(1, 2 * PATIENCE)
    silent(beside(held_out=1), every)
    silent(beside(policy="cap"), every)
    silent(beside(rule="z_score", threshold=4.0), every, needed=False)


def test_too_few_are_refused_in_the_words_of_the_held_out_pairs() -> None:
    teller = beside(held_out=20, rounds=3, false_drop_rate=0.02)
    assert teller.held_out.shortage is not None
    with pytest.raises(ValueError) as refused:
        teller.say(3, "evidence", True, True)
    assert str(refused.value) == teller.held_out.shortage


def test_too_few_on_another_rank_are_refused_here_too() -> None:
    """Else this rank would wait for the other in the next collective."""
    teller = beside(held_out=60, rounds=3, false_drop_rate=0.02)
    assert teller.held_out.shortage is None
    silent(teller, range(3, 4))
    with pytest.raises(ValueError, match="too few held-out pairs on another rank: give calibrate the same ones"):
        teller.say(4, "evidence", True, True)
