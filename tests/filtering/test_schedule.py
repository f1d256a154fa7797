"""The schedule of measured visits: who is due, what it may cost, the same on all ranks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.sharing import Standing
from memsieve.filtering.schedule import Candidate, Schedule


def config(**values: Any) -> FilterConfig:
    return FilterConfig(apply="sieve", signals=["reference_ratio"], **{"record": [], **values})


def standing(exposures: int, drawn: int = 0, last_drawn: int = 0, p_value: float = 1.0) -> Standing:
    evidence = 0.1 if drawn else 0.0
    return Standing("g", evidence, evidence or -math.inf, p_value, 0.0, exposures, exposures, -1, drawn, last_drawn)


def visit(group: str, known: Standing | None, place: int = 0, *, ok: bool = True, condemned: bool = False) -> Candidate:
    return Candidate((0, 0, place), group, ok, known, condemned)


def measured(p_value: float, visits: int) -> int:
    """How often a group that comes ``visits`` times is measured."""
    schedule = Schedule(config())
    drawn = last = 0
    for exposures in range(visits):
        if schedule.is_due(visit("g", standing(exposures, drawn, last, p_value))):
            drawn, last = drawn + 1, exposures + 1
    return drawn


def test_a_clean_group_is_measured_ever_more_rarely_a_suspicious_one_always() -> None:
    assert measured(0.001, 200) == 198, "all but its first two visits"
    clean, halfway = measured(0.5, 200), measured(0.5, 50)
    assert clean < 40 and halfway > clean / 3, "about the root of its visits"
    assert measured(1.0, 2) == 0


def test_a_spared_group_is_measured_as_its_present_evidence_deserves() -> None:
    """Its looks leave no running maximum, which is no reason to measure it at every visit."""
    schedule = Schedule(config())
    looked = replace(standing(20, 10, 16, 0.5), evidence=2.0, evidence_max=-math.inf)
    assert not schedule.is_due(visit("a", looked)) and schedule.is_due(visit("a", replace(looked, last_drawn=15)))
    assert schedule.is_due(visit("a", replace(looked, last_drawn=20, p_value=0.01)))


def test_who_is_not_due() -> None:
    schedule = Schedule(config(), audited=4)
    assert not schedule.is_due(visit("", None))
    assert not schedule.is_due(visit("a", None)), "first visits cost nothing"
    assert not schedule.is_due(visit("a", standing(5), ok=False)), "its caption was dropped"
    assert not schedule.is_due(visit("a", standing(1))) and schedule.is_due(visit("a", standing(2)))
    assert schedule.is_due(visit("a", standing(5)))
    assert not schedule.is_due(visit("a", standing(5), condemned=True)), "its ruling does not hold yet, and is taken"
    assert not schedule.is_due(visit("a", standing(9, 4, 8, 0.001))), "all audited draws are used"
    assert Schedule(config(beyond="frozen"), audited=4).is_due(visit("a", standing(9, 4, 8, 0.001)))


def test_a_budget_is_kept_and_the_most_suspected_come_first() -> None:
    schedule = Schedule(config(score_budget=0.25))  # of 8 rows: half of 0.25 x 3 x 8 forwards = 3
    groups = [visit(f"g{i}", standing(9, 1, 2, (i + 1) / 20), i) for i in range(16)]
    plan = schedule.plan(groups, 0, 16, 8, step=0)
    assert [i for i, v in enumerate(plan.visits) if v >= 0] == [0, 1, 2, 8, 9, 10]
    assert plan.visits[0] == 1 and plan.paid[0] and plan.shape == 3 and plan.forwards == [True, True]
    tight = Schedule(config(score_budget=0.01))  # 0.12 rows a window: one in nine
    windows = [tight.plan(groups[:8], 0, 8, 8, step) for step in range(18)]
    assert [sum(v >= 0 for v in plan.visits) for plan in windows] == [1, *[0] * 8] * 2
    spent = sum(plan.shape * any(plan.forwards) for plan in windows) / (3.0 * 8 * 18)
    assert spent <= 0.01 / 2


def test_copies_in_one_window_are_measured_once_and_ranks_agree() -> None:
    schedule = Schedule(config(score_budget=1.0))
    same = [visit("a", standing(9), i) for i in range(4)]
    other = [visit("b", None, 10 + i) for i in range(4)]
    ranks = [schedule.plan([*same, *other], rank, 4, 2, step=0) for rank in range(2)]
    assert [v for plan in ranks for v in plan.visits] == [0, *[-1] * 7]
    assert ranks[0].forwards == ranks[1].forwards == [True, False], "the rank with nothing to measure goes along"


@pytest.mark.parametrize(("budget", "expected"), [(0.08, 17), (0.5, 3), (1.0, 2)])
def test_held_out_pairs_are_measured_within_the_budget(budget: float, expected: int) -> None:
    interval = Schedule(config(score_budget=budget)).calibration_interval(8, 8, 2)
    assert interval == expected
    shares = [8 * 2 / (windows * 3.0 * 8) for windows in (interval, interval - 1)]
    assert shares[0] <= budget / 2 < shares[1], "as often as half the budget pays for"


def test_a_looked_up_reference_costs_training_nothing() -> None:
    schedule = Schedule(config(score_budget=0.01), audited=4)
    assert schedule.passes == 0
    plan = schedule.plan([visit(f"g{i}", standing(9), i) for i in range(8)], 0, 8, 8, step=3)
    assert plan.visits == [0] * 8 and not any(plan.paid) and plan.forwards == [False]
    with_magnitude = Schedule(config(record=["magnitude"], score_budget=0.01), audited=4)
    assert with_magnitude.passes == 1
