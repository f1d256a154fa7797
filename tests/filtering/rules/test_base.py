"""What is read of a visit, and a rule that tests each visit for itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.evidence.table import EvidenceTable
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.rules import Reading, VisitRule, WindowEnd, readings_of, rule_of
from memsieve.filtering.signals import Predictions
from memsieve.filtering.types import Divisor, Measurement, Reason, Visit

SIGNALS = {"magnitude": [4.0, 5.0], "loss": [0.5, 0.25], "reference_ratio": [0.1, math.nan]}


def measurement(usable: list[bool], readable: list[bool] | None = None, drawn: list[bool] | None = None) -> Measurement:
    """Of two rows."""
    flags = (np.array(one) if one is not None else None for one in (drawn, readable))
    values = {name: torch.tensor(column) for name, column in SIGNALS.items()}
    return Measurement(values, np.array([100, 900]), np.array(usable), *flags)


def read(measured: Measurement) -> list[Reading]:
    return readings_of(measured, np.array([1.5, math.nan]), np.array([0.1, math.nan]))


def test_what_was_measured_of_a_visit_is_read_and_what_is_not_a_number_left_out() -> None:
    first, second = read(measurement([True, True]))
    assert first == Reading(first.values, 100, 1.5, 0.1, True, Reason.NOT_SCORED)
    assert first.values == pytest.approx({"magnitude": 4.0, "loss": 0.5, "reference_ratio": 0.1})
    assert second.values == {"magnitude": 5.0, "loss": 0.25} and second.timestep == 900
    assert math.isnan(second.score) and math.isnan(second.p_value)


def test_beyond_max_timestep_all_is_still_read_and_nothing_is_evidence() -> None:
    _, beyond = read(measurement([True, False], readable=[True, True]))
    assert beyond.values == {"magnitude": 5.0, "loss": 0.25}
    assert not beyond.usable and beyond.unusable is Reason.NOT_SCORED


def test_without_its_caption_only_the_losses_of_a_visit_mean_something() -> None:
    dropped, _ = read(measurement([False, True], readable=[False, True]))
    assert dropped.values == pytest.approx({"loss": 0.5, "reference_ratio": 0.1})
    assert not dropped.usable and dropped.unusable is Reason.NO_CAPTION
    assert read(measurement([False, True]))[0] == dropped, "where both are the same"


def test_a_visit_that_was_not_due_has_no_values_whatever_stands_in_its_row() -> None:
    skipped, drawn = read(measurement([False, True], drawn=[False, True]))
    assert skipped.values == {} and skipped.unusable is Reason.NOT_DUE
    assert drawn.values == {"magnitude": 5.0, "loss": 0.25} and drawn.usable


class Loud(VisitRule):
    """Fails visits whose loss is above 1."""

    def exceeds(self, visit: Visit, reading: Reading) -> tuple[bool, float, float]:
        return reading.values["loss"] > 1.0, reading.values["loss"] - 1.0, 1.0


def test_a_rule_gives_what_exceeds_and_the_rest_is_there() -> None:
    rule = Loud()
    found = rule.finding(Visit("a"), Reading({"loss": 3.0}, 100, 0.0, 0.25, True, Reason.CLEAN), None)
    assert (found.guilty, found.excess, found.threshold) == (True, 2.0, 1.0)
    assert found.reason is Reason.THRESHOLD and found.p_value == 0.25 and math.isnan(found.evidence)
    with pytest.raises(TypeError, match="exceeds"):
        VisitRule()  # type: ignore[abstract]


def test_a_visit_that_is_no_evidence_is_not_asked_about() -> None:
    """``exceeds`` may take for granted that the signals are there."""
    found = Loud().finding(Visit("a"), Reading({}, 100, 0.0, 0.25, False, Reason.NO_CAPTION), None)
    assert not found.guilty and found.reason is Reason.CLEAN and found.p_value == 0.25
    assert math.isnan(found.excess) and math.isnan(found.threshold)


def test_a_rule_of_visits_condemns_nobody_and_has_nothing_to_restore() -> None:
    rule, groups = Loud(), EvidenceTable(half_life=8.0)
    groups.observe(["bad"] * 9, np.full(9, 99.0), np.zeros(9), 1, 9)
    held_out = HeldOutPairs(FilterConfig(signals=["loss"], record=[]))
    rule.test_and_condemn(WindowEnd(groups, np.array([0]), held_out, Exchange(), True, 1, 1))
    assert rule.condemned == {} and rule.latest == [] and groups["condemned_step"].tolist() == [-1]
    rule.load_state_dict({"condemned": {"bad": 3}, "overfitting": True})
    assert rule.condemned == {} and rule.state_dict() == {"condemned": {}, "overfitting": False}
    assert Loud().condemned is not rule.condemned


DIVIDES: list[tuple[dict[str, object], Divisor]] = [
    ({"rule": "evidence"}, "eligible"),
    ({"rule": "rank"}, "eligible"),
    ({"rule": "z_score", "threshold": 4.0}, "eligible"),
    ({"rule": "threshold", "threshold": 2.0}, "kept"),
]


@pytest.mark.parametrize(("options", "divides_by"), DIVIDES)
def test_the_papers_rule_divides_by_what_is_kept_and_the_others_by_what_could_be_trained_on(
    options: dict[str, object], divides_by: Divisor
) -> None:
    config = FilterConfig(signals=["loss"], record=[], **options)
    assert rule_of(config, HeldOutPairs(config)).divides_by == divides_by
    sieve = MemorizationFilter(config)
    measured = sieve.measure(Predictions(torch.zeros(2, 4), torch.ones(2, 4)), torch.tensor([1, 1]))
    assert sieve.decide([Visit("a"), Visit("b")], measured).divides_by == divides_by


def test_a_rule_of_ones_own_may_divide_otherwise() -> None:
    class LoudAsInThePaper(Loud):
        divides_by: Divisor = "kept"

    noise, cond = torch.zeros(2, 4), torch.tensor([[0.5] * 4, [2.0] * 4])
    losses = torch.tensor([3.0, 5.0])
    for rule, expected in ((Loud(), 1.5), (LoudAsInThePaper(), 3.0)):
        sieve = MemorizationFilter(signals=["loss"], record=[], rule=rule)
        decision = sieve.decide([Visit("a"), Visit("b")], sieve.measure(Predictions(noise, cond), torch.tensor([1, 1])))
        assert decision.weights.tolist() == [1.0, 0.0] and float(decision.reduce(losses)) == expected
