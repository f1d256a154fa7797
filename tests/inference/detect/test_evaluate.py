"""AUC, TPR at a false-positive rate, and intervals that know which prompts belong together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from memsieve.filtering.statistics import auc
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.detect.evaluate import EvaluationSettings, evaluate_detector, tpr_at_fpr
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.opened import open_model


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 30).astype(float), rng.integers(0, 5, 40).astype(float)
    pairs = [(x > y) + 0.5 * (x == y) for x in a for y in b]
    assert auc(a, b) == pytest.approx(np.mean(pairs)) and 0.2 < auc(a, b) < 0.8
    assert auc(np.asarray([2.0]), np.asarray([1.0])) == 1.0


def test_tpr_at_fpr() -> None:
    ordinary = np.arange(200.0)
    assert tpr_at_fpr(np.asarray([197.0, 197.5, 198.0, 300.0]), ordinary) == 0.75, "two of 200 may pass"
    assert tpr_at_fpr(np.asarray([49.0, 50.0]), np.arange(50.0)) == 0.5, "below 100 none may"


def test_copies_of_one_prompt_widen_the_interval(build_pipeline: Callable[..., Any]) -> None:
    model = open_model(build_pipeline())
    memorized = [f"cat dog {i}" for i in range(12)]
    ordinary = [c * 3 + " tree" for c in "abefghijklmnop"]
    settings = EvaluationSettings(detect=DetectSettings(schedule_steps=10))

    def width(groups: Any) -> float:
        (result,) = evaluate_detector(model, memorized, ordinary, settings, groups=groups, progress=False)
        return result.auc.high - result.auc.low

    apart = ([str(i) for i in range(12)], [str(i) for i in range(14)])
    together = ([str(i // 6) for i in range(12)], [str(i // 7) for i in range(14)])
    (auto,) = evaluate_detector(model, memorized, ordinary, settings, progress=False)
    assert auto.memorized_groups == 1 and auto.ordinary_groups == 14
    assert width(together) != width(apart)


def test_settings_share_one_measurement(build_pipeline: Callable[..., Any]) -> None:
    model = open_model(build_pipeline())
    first, second = ["cat", "zebra", "q q q"], ["tree", "house", "river", "moon"]
    settings = EvaluationSettings(detect=DetectSettings(schedule_steps=6), steps=[1, 3], images=[1, 2], resamples=50)
    results = evaluate_detector(model, first, second, settings, progress=False)
    assert [(r.steps, r.images_per_prompt) for r in results] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    assert all(r.auc.low <= r.auc.value <= r.auc.high and r.seconds_per_prompt > 0 for r in results)
    alone = DetectSettings(schedule_steps=6, steps=3, images_per_prompt=2)
    scores = [float(m.magnitudes.mean()) for m in measure_prompts(model, [*first, *second], alone)]
    assert results[3].auc.value == pytest.approx(auc(np.asarray(scores[:3]), np.asarray(scores[3:])))


def test_a_prompt_in_both_lists_is_refused(build_pipeline: Callable[..., Any]) -> None:
    model, settings = open_model(build_pipeline()), EvaluationSettings(detect=DetectSettings())
    with pytest.raises(ValueError, match="1 prompts are in --memorized and in --ordinary, 'cat'"):
        evaluate_detector(model, ["cat"], ["cat"], settings, progress=False)
    with pytest.raises(ValueError, match="must both hold at least one prompt"):
        evaluate_detector(model, ["cat"], [], settings, progress=False)
