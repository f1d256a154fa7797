"""Condemned groups are measured again, and pardoned once where they have become ordinary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.decision import Measurement
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.types import Action, Reason, Visit

HELD_OUT = [f"held{i}" for i in range(60)]


def measurement(scores: np.ndarray) -> Measurement:
    """Losses whose evidence, minus their logarithm, is ``scores``."""
    loss = torch.from_numpy(np.exp(-scores)).float()
    return Measurement({"loss": loss}, np.full(len(scores), 500), np.ones(len(scores), dtype=bool))


def history(level: Callable[[int], float], windows: int, **options: Any) -> tuple[MemorizationFilter, list[int]]:
    """A filter after so many windows of a group whose scores lie around ``level(window)``, among ordinary ones; and
    the windows after which the group was condemned."""
    defaults: dict[str, Any] = {"signals": ["loss"], "record": [], "false_drop_rate": 0.02, "half_life": 2.0,
                                "min_sweeps": 2, "horizon": 40, "pardon_looks": 3,
                                "max_drop_fraction": 1.0}  # fmt: skip
    filter = MemorizationFilter(FilterConfig(**{**defaults, **options}))
    rng = np.random.default_rng(0)
    bad: list[int] = []
    for window in range(windows):
        filter.calibrate(HELD_OUT, measurement(rng.normal(0.0, 1.0, len(HELD_OUT))))
        visits = [Visit("bad", group="bad"), *[Visit(f"good{i}", group=f"good{i}") for i in range(5)]]
        filter.decide(visits, measurement(np.array([level(window), *rng.normal(0.0, 1.0, 5)])))
        filter.end_window()
        if "bad" in filter.condemned:
            bad.append(window)
    return filter, bad


def test_pardoned_once_and_condemned_again_by_new_evidence() -> None:
    def level(window: int) -> float:
        return 5.0 if window < 12 or 34 <= window < 46 else -0.3

    filter, bad = history(level, 70)
    first, second = [w for w in bad if w < 34], [w for w in bad if w >= 34]
    assert first and first == list(range(first[0], first[-1] + 1)) and 15 <= first[-1] < 30
    assert second[-1] == 69, "a second time is for good"
    assert second[0] > 34, "its old evidence was forgotten, so that one visit does not bring it back"
    row = filter.groups.row("bad")
    assert filter.groups["pardons"][row] == 1 and filter.groups["condemned_step"][row] > 34


def test_hysteresis_keeps_the_half_suspicious() -> None:
    filter, bad = history(lambda window: 5.0 if window < 12 else 0.8, 60)
    assert bad[-1] == 59, "no longer beyond the bar, and not ordinary either"
    assert "bad" in filter.condemned


def test_nobody_is_pardoned_unless_asked_and_never_without_a_new_visit() -> None:
    _, bad = history(lambda window: 5.0 if window < 12 else -0.3, 60, pardon_looks=0)
    assert bad[-1] == 59
    filter, _ = history(lambda window: 5.0, 12)
    filter.groups["evidence"][filter.groups.row("bad")] = -1.0
    due = [len(filter.groups.ordinary_again(filter.panel.table, 0.5, 2)) for _ in range(9)]
    assert due == [0] * 9, "one measured visit since it was condemned, however often one looks"


def test_rulings_name_both_kinds_and_the_state_is_exact() -> None:
    filter, _ = history(lambda window: 5.0 if window < 12 else -0.3, 14)
    other = MemorizationFilter(filter.config)
    other.load_state_dict(filter.state_dict())
    rng = np.random.default_rng(5)
    seen: list[tuple[str, bool]] = []
    for _ in range(12):
        held, scores = rng.normal(size=len(HELD_OUT)), np.array([-0.3])
        for each in (filter, other):
            each.calibrate(HELD_OUT, measurement(held))
            each.decide([Visit("bad", group="bad")], measurement(scores))
            each.end_window()
        assert filter.rulings.latest == other.rulings.latest
        seen += filter.rulings.latest
    assert seen == [("bad", False)]


def test_caption_policy_takes_the_caption_of_the_condemned() -> None:
    filter, _ = history(lambda window: 5.0, 12, policy="caption", pardon_looks=0)
    bad, good = Visit("bad", group="bad"), Visit("good1", group="good1")
    assert filter.without_caption(bad) and not filter.without_caption(good)
    decision = filter.decide([bad, good], measurement(np.array([5.0, 0.0])))
    assert decision.weights.tolist() == [1.0, 1.0]
    assert decision.verdicts[0].action is Action.CAPTION and decision.verdicts[0].reason is Reason.CONDEMNED
    with pytest.raises(ValueError, match=r"policy: caption .* needs filter\.decide: group"):
        FilterConfig(policy="caption", decide="visit")
    with pytest.raises(ValueError, match=r"pardon_p: 0\.01 must exceed filter\.false_drop_rate: 0\.05"):
        FilterConfig(pardon_looks=1, pardon_p=0.01, false_drop_rate=0.05)
