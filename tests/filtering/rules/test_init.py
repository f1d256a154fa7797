"""Rules by name, and rules of one's own: what is none, or cannot do what is asked of it, is said at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.rules import (
    EvidenceRule,
    RankRule,
    Reading,
    ThresholdRule,
    VisitRule,
    WindowEnd,
    ZScoreRule,
    rule_of,
)
from memsieve.filtering.types import Visit


class LowLoss(VisitRule):
    """Drops a visit whose loss is low."""

    def exceeds(self, visit: Visit, reading: Reading) -> tuple[bool, float, float]:
        return reading.values["loss"] < 0.5, 0.5 - reading.values["loss"], 0.5


class Condemning(LowLoss):
    """Condemns whoever was measured."""

    remembers = True

    def test_and_condemn(self, window: WindowEnd) -> None:
        for row in window.measured:
            self.condemned.setdefault(window.groups.names[row], window.step)

    def state_dict(self) -> dict[str, Any]:
        return {"condemned": dict(self.condemned)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.condemned = dict(state["condemned"])


@pytest.mark.parametrize(
    ("options", "kind", "divides_by"),
    [
        ({}, EvidenceRule, "eligible"),
        ({"rule": "rank", "false_drop_rate": 0.1}, RankRule, "eligible"),
        ({"rule": "z_score", "threshold": 4.0}, ZScoreRule, "eligible"),
        ({"rule": "threshold", "threshold": 2.0, "signals": ["magnitude"]}, ThresholdRule, "kept"),
    ],
)
def test_rules_by_name(options: dict[str, Any], kind: type, divides_by: str) -> None:
    sieve = MemorizationFilter(record=[], **options)
    assert type(sieve.rule) is kind and sieve.rule.divides_by == divides_by
    assert sieve.rule.name == options.get("rule", "evidence") and LowLoss().name == "LowLoss"


def test_settings_that_were_changed_one_by_one_are_refused_without_a_threshold() -> None:
    config = FilterConfig(signals=["magnitude"])
    with pytest.raises(ValueError, match="needs filter.threshold"):
        config.rule = "z_score"
    with pytest.raises(ValueError, match=r"filter\.rule: z_score needs filter\.threshold"):
        rule_of(config, HeldOutPairs(config))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (LowLoss, r"LowLoss is a class; give an object of it, as rule=LowLoss\(\.\.\.\)"),
        (5, r"rule = 5 is no rule: it has no 'condemned' .*; derive from VisitRule"),
        (object(), r"is no rule: it has no 'condemned'"),
    ],
)
def test_what_is_no_rule_is_said_at_once(rule: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        MemorizationFilter(rule=rule)


@pytest.mark.parametrize(("option", "value"), [("policy", "caption"), ("apply", "sieve")])
def test_who_acts_on_condemned_pairs_needs_a_rule_that_remembers_them(option: str, value: str) -> None:
    options: dict[str, Any] = {"signals": ["loss"], "record": [], option: value}
    with pytest.raises(ValueError, match=rf"filter\.{option}: {value} acts on condemned pairs, and LowLoss remembers"):
        MemorizationFilter(rule=LowLoss(), **options)
    sieve = MemorizationFilter(rule=Condemning(), **options)
    with pytest.raises(ValueError, match="remembers none"):
        sieve.rule = LowLoss()
    assert isinstance(sieve.rule, Condemning), "the one before stays"


def test_a_name_and_settings_beside_it_contradict_each_other() -> None:
    with pytest.raises(TypeError, match="config holds all settings, and rule was given beside it"):
        MemorizationFilter(FilterConfig(), rule="rank")


def condemning() -> MemorizationFilter:
    return MemorizationFilter(signals=["loss"], record=[], rule=Condemning())


def test_a_rules_state_is_its_own() -> None:
    import torch

    from memsieve.filtering.types import Measurement

    one = condemning()
    loss = {"loss": torch.tensor([0.1, 0.9])}
    for window in range(3):
        visits = [Visit("a", group="a", epoch=window, offset=0), Visit("b", group="b", epoch=window, offset=1)]
        one.decide(visits, Measurement(loss, np.array([5, 5]), np.array([True, True])))
        one.end_window()
    state = one.state_dict()
    other = condemning()
    other.load_state_dict(state)
    assert other.condemned == one.condemned
    settings = MemorizationFilter(signals=["loss"], record=[])
    with pytest.raises(ValueError, match="with the rule 'Condemning', and this filter's is 'evidence': give it"):
        settings.load_state_dict(state)
    with pytest.raises(ValueError, match="written with the rule 'evidence', and this filter's is 'Condemning'"):
        condemning().load_state_dict(settings.state_dict())


def test_a_rules_state_cannot_overwrite_the_filters() -> None:
    class Clashing(LowLoss):
        def state_dict(self) -> dict[str, Any]:
            return {"step": 3}

    sieve = MemorizationFilter(signals=["loss"], record=[], rule=Clashing())
    with pytest.raises(ValueError, match="state_dict has 'step', which is the filter's own: rename it"):
        sieve.state_dict()
