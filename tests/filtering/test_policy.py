"""From a finding to a weight, an action and a reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.evidence.sharing import Standing
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.policy import Policy
from memsieve.filtering.rules import EvidenceRule, Reading
from memsieve.filtering.types import Action, Measurement, Reason, Visit

HELD_OUT = [f"held{i}" for i in range(60)]


def measurement(scores: np.ndarray) -> Measurement:
    """Losses whose evidence, minus their logarithm, is ``scores``."""
    loss = torch.from_numpy(np.exp(-scores)).float()
    return Measurement({"loss": loss}, np.full(len(scores), 500), np.ones(len(scores), dtype=bool))


def test_caption_policy_takes_the_caption_of_the_condemned() -> None:
    options = {"signals": ["loss"], "record": [], "false_drop_rate": 0.02, "max_drop_fraction": 1.0}
    sieve = MemorizationFilter(FilterConfig(**options, policy="caption"))
    rng = np.random.default_rng(0)
    bad, good = Visit("bad", group="bad"), Visit("good1", group="good1")
    for _ in range(12):
        sieve.calibrate(HELD_OUT, measurement(rng.normal(0.0, 1.0, len(HELD_OUT))))
        sieve.decide([bad, good], measurement(np.array([5.0, rng.normal()])))
        sieve.end_window()
    assert sieve.without_caption(bad) and not sieve.without_caption(good)
    decision = sieve.decide([bad, good], measurement(np.array([5.0, 0.0])))
    assert decision.weights.tolist() == [1.0, 1.0]
    assert decision.verdicts[0].action is Action.CAPTION and decision.verdicts[0].reason is Reason.CONDEMNED


def test_reweighting_spares_too() -> None:
    config = FilterConfig(policy="reweight", record=[])
    held_out = HeldOutPairs(config)
    rule, policy, visit = EvidenceRule(config, held_out), Policy(config), Visit("a", group="g")
    held_out.bar = lambda pace=1.0: 3.0  # type: ignore[method-assign]
    reading = Reading({}, 100, 5.0, 0.01, True, Reason.CLEAN)
    high = Standing("g", 12.0, 12.0, 0.008, 0.0, 9, 9, -1, level=1.0)
    verdicts = [
        policy.verdict(visit, reading, rule.finding(visit, reading, standing), standing)
        for standing in (high, replace(high, level=-2.0))
    ]
    assert verdicts[0].weight < 0.01 and verdicts[1].weight == 1.0 and verdicts[1].action is Action.KEEP


def test_what_is_settled_before_a_window_is_what_is_dropped_whatever_is_read_of_it() -> None:
    """And nothing else: a weight that goes by evidence needs to be measured."""
    condemned, standing = {"bad": 3}, Standing("bad", 12.0, 12.0, 0.008, 0.0, 9, 9, -1, level=1.0)
    names = ("bad", "good", "spared", "taken down")

    def settled(**options: Any) -> list[str]:
        lists = {"never_drop": ["spared"], "always_drop": ["taken down"]}
        policy = Policy(FilterConfig(record=[], **lists, **options))
        everyone = condemned | {"spared": 3}
        return [name for name in names if policy.settles(Visit(name, group=name), everyone, standing)]

    assert settled() == settled(policy="retire") == ["bad", "taken down"]
    assert settled(policy="observe") == settled(policy="caption") == settled(policy="reweight") == ["taken down"]
    assert settled(policy="cap", max_exposures=9) == ["bad", "good", "taken down"]
    assert settled(policy="cap", max_exposures=10) == ["taken down"]


def test_a_settled_visit_gets_weight_0_also_where_its_pair_was_never_measured() -> None:
    sieve = MemorizationFilter(record=[], signals=["loss"])
    sieve.condemned["bad"] = 0
    visits = [Visit("bad", group="bad"), Visit("good", group="good")]
    sieve.begin_window(visits)
    assert sieve.settled(visits) == [True, False]
    assert sieve.decide(visits, measurement(np.zeros(2))).weights.tolist() == [0.0, 1.0]
