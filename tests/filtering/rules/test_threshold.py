"""Rules of one visit, each at its threshold."""

from __future__ import annotations

import math

import pytest

from memsieve.filtering.rules import RankRule, Reading, ThresholdRule, VisitRule, ZScoreRule
from memsieve.filtering.types import Reason, Visit

VISIT = Visit("a")


def reading(value: float = 1.0, score: float = 0.0, p_value: float = 1.0, usable: bool = True) -> Reading:
    return Reading({"magnitude": value}, 100, score, p_value, usable, Reason.NO_CAPTION)


def test_the_papers_threshold_is_exceeded_not_reached() -> None:
    rule = ThresholdRule("magnitude", 2.0)
    assert not rule.finding(VISIT, reading(2.0), None).guilty
    found = rule.finding(VISIT, reading(4.0), None)
    assert found.guilty and found.threshold == 2.0 and found.reason is Reason.THRESHOLD
    assert math.exp(-found.excess) == pytest.approx(2.0 / 4.0), "weight min(1, tau / m)"
    assert not ThresholdRule("loss", 2.0).finding(VISIT, reading(4.0), None).guilty, "not measured"


def test_a_z_score_and_a_rank() -> None:
    assert [ZScoreRule(4.0).finding(VISIT, reading(score=z), None).guilty for z in (4.0, 4.1)] == [False, True]
    assert [RankRule(0.05).finding(VISIT, reading(p_value=p), None).guilty for p in (0.051, 0.05)] == [False, True]
    assert RankRule(0.05).finding(VISIT, reading(p_value=0.01), None).excess == pytest.approx(math.log(5))
    nowhere = RankRule(0.05).finding(VISIT, reading(p_value=math.nan), None)
    assert not nowhere.guilty and math.isnan(nowhere.excess), "nobody has calibrated yet"


@pytest.mark.parametrize("rule", [ThresholdRule("magnitude", 0.1), ZScoreRule(-9.0), RankRule(1.0)])
def test_what_is_no_evidence_is_not_tested(rule: VisitRule) -> None:
    assert rule.finding(VISIT, reading(), None).guilty
    found = rule.finding(VISIT, reading(usable=False), None)
    assert not found.guilty and math.isnan(found.threshold)
    assert rule.condemned == {} and not rule.overfitting and not rule.remembers


def test_only_training_visits_make_a_z_score_without_held_out_pairs() -> None:
    assert ZScoreRule(1.0).learns_from_training and not ZScoreRule(1.0).needs_held_out
    assert RankRule(0.1).needs_held_out and not ThresholdRule("magnitude", 1.0).needs_held_out
