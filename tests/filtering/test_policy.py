"""From a finding to a weight, an action and a reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.filter import MemorizationFilter
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


def test_caption_policy_needs_what_is_known_before_the_visit() -> None:
    with pytest.raises(ValueError, match=r"policy: caption .* needs filter\.rule: evidence, not rank"):
        FilterConfig(policy="caption", rule="rank")
