"""The test and the act: who passes the bar is condemned at once, on all ranks alike, and stays condemned."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.evidence.table import HALF_LIFE, MIN_SWEEPS, EvidenceTable
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.rules import EvidenceRule, Reading, WindowEnd
from memsieve.filtering.types import Reason, Visit

NONE = np.zeros(0, dtype=np.int64)
READING = Reading({}, 100, 0.0, 0.5, True, Reason.CLEAN)


class Case:
    """A rule with 128 calibrated held-out pairs, and training groups with scores of one's own."""

    def __init__(self, **options: object) -> None:
        self.config = FilterConfig(signals=["loss"], record=[], **{"max_drop_fraction": 1.0, **options})
        self.held_out = HeldOutPairs(self.config)
        self.groups = EvidenceTable(HALF_LIFE, MIN_SWEEPS)
        self.rule = EvidenceRule(self.config, self.held_out)
        self.step = 0
        rng = np.random.default_rng(3)
        for sweep in range(5):
            self.held_out.observe([f"h{i}" for i in range(128)], rng.normal(size=128), sweep)

    def visit(self, times: int = 4, **scores: float) -> None:
        names, values = list(scores), np.array(list(scores.values()))
        for _ in range(times):
            self.step += 1
            self.groups.observe(names, values, np.full(len(names), np.nan), self.step, self.held_out.sweep)

    def end(
        self, swept: bool = True, measured: tuple[str, ...] = (), note: Callable[[str], None] | None = None
    ) -> None:
        rows = np.array([self.groups.row(name) for name in measured], dtype=np.int64) if measured else NONE
        window = WindowEnd(
            self.groups, rows, self.held_out, Exchange(), swept, len(self.groups), self.step, note
        )  # fmt: skip
        self.rule.test_and_condemn(window)

    def guilty(self, name: str) -> bool:
        return self.rule.finding(Visit(name, group=name), READING, None).guilty or name in self.rule.condemned


def test_before_the_first_comparison_nobody_is_condemned() -> None:
    case = Case()
    case.visit(bad=9.0, good=0.0)
    case.end(swept=False, measured=("bad", "good"))
    assert case.rule.condemned == {} and case.held_out.bar() == math.inf


def test_after_a_sweep_all_are_tested_and_between_sweeps_those_that_were_measured() -> None:
    case = Case()
    case.visit(bad=9.0, good=0.0)
    case.end()
    assert case.rule.latest == ["bad"] and case.rule.condemned == {"bad": 4}
    case.visit(later=9.0, unmeasured=9.0)
    case.end(swept=False, measured=("later", "good"))
    assert case.rule.latest == ["later"], "the other was not measured in this window"
    case.visit(later=-9.0, times=20)
    case.end()
    assert "later" in case.rule.condemned and case.rule.latest == ["unmeasured"], "who is condemned stays so"


def test_the_most_evident_are_condemned_up_to_the_share_and_a_person_is_told() -> None:
    case, told = Case(max_drop_fraction=0.5), []
    case.visit(a=9.0, b=8.0, c=7.0, d=0.0)
    case.end(note=told.append)
    assert case.rule.latest == ["a", "b"] and case.rule.overfitting
    assert "3 of 4 groups pass the bar, more than filter.max_drop_fraction: 0.5" in " ".join(told)


def test_a_group_needs_three_visits() -> None:
    case = Case()
    case.visit(bad=9.0, times=2)
    case.end()
    assert case.rule.condemned == {}
    case.visit(bad=9.0, times=1)
    case.end()
    assert list(case.rule.condemned) == ["bad"]


def test_state_is_who_is_condemned() -> None:
    case = Case()
    case.visit(bad=9.0)
    case.end()
    other = EvidenceRule(case.config, case.held_out)
    other.load_state_dict(case.rule.state_dict())
    assert other.condemned == case.rule.condemned and not other.overfitting
    found = other.finding(Visit("x", group="bad"), READING, None)
    assert found.guilty, "who is condemned is known without a standing"
    assert found.p_value == pytest.approx(0.5)
