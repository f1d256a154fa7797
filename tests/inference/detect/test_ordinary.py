"""Scores and p-values beside ordinary prompts, after one step and after each of several."""

from __future__ import annotations

import numpy as np
import pytest

from memsieve.inference.detect.detectors import PromptMeasurement
from memsieve.inference.detect.ordinary import OrdinaryPaths, OrdinaryPrompts


def test_p_values_are_ranks_among_ordinary_prompts() -> None:
    ordinary = OrdinaryPrompts(["magnitude"], np.arange(99.0)[:, None])
    assert ordinary.p_values(np.asarray([98.5, 98.0, 0.0])).tolist() == pytest.approx([0.01, 0.02, 1.0])
    threshold = ordinary.threshold(0.02)
    above = np.asarray([threshold, threshold + 1e-6])
    assert (ordinary.p_values(above) <= 0.02).tolist() == [False, True]
    two = OrdinaryPrompts(["a", "b"], np.stack([np.arange(9.0), 100 * np.arange(9.0)], axis=1))
    assert two.scores(np.asarray([[4.0, 400.0]])) == pytest.approx([0.0]), "the medians"
    assert two.scores(np.asarray([[6.0, 400.0]])) == pytest.approx(two.scores(np.asarray([[4.0, 600.0]])))


def test_looking_at_every_step_flags_no_more_ordinary_prompts() -> None:
    """600 ordinary curves that wander: 5 % of new ones pass the limit at some step, not 5 % at each."""
    rng = np.random.default_rng(0)

    def curves(count: int) -> list[PromptMeasurement]:
        logs = rng.normal(size=(count, 1, 30)) + 2 * rng.normal(size=(count, 1, 1))
        return [PromptMeasurement(str(i), {"drift": np.exp(row)}, None, 0.0) for i, row in enumerate(logs)]

    ordinary = OrdinaryPaths(curves(600), 0.05)
    new = curves(2000)
    places = np.asarray([ordinary.path(m.path) for m in new])
    assert 0.03 < (places > ordinary.limit).mean() < 0.07
    assert ((ordinary.p_values(places) <= 0.05) == (places > ordinary.limit)).all()
    naive = OrdinaryPaths([PromptMeasurement(m.prompt, {"drift": m.path[:, :1]}, None, 0.0) for m in curves(600)], 0.05)
    single = np.asarray([naive.path(m.path[:, :1]) for m in new])
    assert (single > naive.limit).mean() < 0.08
    first = [ordinary.path(m.path[:, :5]) for m in new[:20]]
    assert all(a <= b for a, b in zip(first, places, strict=False)), "the path only rises"
