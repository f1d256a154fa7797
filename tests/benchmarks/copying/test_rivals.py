"""The rivals' rules, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.copying.rivals import LossBelowAverage, RandomDrop
from memsieve.filtering.config import FilterConfig
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.types import Measurement, Visit


def test_iet_agc_skips_losses_far_below_the_average_at_their_timestep() -> None:
    rule = LossBelowAverage(ratio=1.25, decay=0.8, timesteps=10)
    visit = Visit("a")
    assert rule.margin(visit, 0.001, 5) == -math.inf  # the average starts at 0
    rule.learn(Measurement({"loss": torch.ones(2)}, np.array([5, 5]), np.ones(2, dtype=bool)))
    assert rule.average[5] == pytest.approx(0.8 * 0.2 + 0.2)  # 0.36
    assert rule.margin(visit, 0.28, 5) == pytest.approx(math.log(0.36 / 0.35))
    assert rule.margin(visit, 0.30, 5) < 0.0  # 0.375 > 0.36
    assert rule.margin(visit, 0.28, 4) == -math.inf
    other = LossBelowAverage(timesteps=10)
    other.load_state_dict(rule.state_dict())
    assert other.average[5] == rule.average[5]


def test_a_rival_decides_a_whole_batch_before_it_learns_from_it() -> None:
    config = FilterConfig(signals=["loss"], record=[], rule="threshold", threshold=1e9)
    rule = LossBelowAverage(timesteps=1000)
    rule.average[7] = 0.5
    rival = MemorizationFilter(config, rule=rule)
    losses = torch.tensor([0.1, 0.45, 0.1])
    usable = np.array([True, True, False])
    decision = rival.decide(
        [Visit("a"), Visit("b"), Visit("c")], Measurement({"loss": losses}, np.array([7, 7, 7]), usable)
    )
    # 0.1 * 1.25 < 0.5: skipped, captioned or not; 0.45 * 1.25 > 0.5: kept.
    assert decision.weights.tolist() == [0.0, 1.0, 0.0]
    assert float(decision.reduce(losses)) == pytest.approx(0.45)  # the mean over what was kept
    average = 0.5
    for loss in losses.tolist():
        average = 0.8 * average + 0.2 * loss
    assert rule.average[7] == pytest.approx(average)
    for state in (rival.state_dict(), rival.local_state_dict()):  # what a checkpoint of a run holds
        again = MemorizationFilter(config, rule=LossBelowAverage(timesteps=1000))
        again.load_state_dict(state)
        assert again.rule.state_dict()["average"].tolist() == rule.average.tolist()


def test_random_drop_is_a_function_of_the_position() -> None:
    rule = RandomDrop(0.3, seed=1)
    visits = [Visit("a", stream=s, epoch=0, offset=o) for s in range(8) for o in range(250)]
    dropped = [rule.margin(visit, 0.1, 5) > 0 for visit in visits]
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.04)
    assert dropped == [RandomDrop(0.3, seed=1).margin(visit, 0.7, 9) > 0 for visit in visits]
