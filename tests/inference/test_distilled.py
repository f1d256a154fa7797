"""A guidance-distilled model beside its base: the drift needs no unconditional prediction."""

from __future__ import annotations

import pytest
import torch

from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.guard.guard import MemorizationGuard
from memsieve.inference.minimize.draw import draw
from memsieve.inference.minimize.minimize import minimize
from memsieve.inference.minimize.settings import MinimizeSettings
from memsieve.inference.opened import open_model
from tests.inference.tuned import tuned_family
from tests.tiny_models import DISTILLED, recent_slow

SETTINGS = DetectSettings(detector="drift", steps=2, schedule_steps=4, guidance_scale=3.0, resolution=16)


@pytest.mark.parametrize("name", recent_slow(DISTILLED))
def test_what_is_minimised_is_drawn_by_the_embedded_scale(name: str) -> None:
    pipe, base = tuned_family(name)
    model = open_model(pipe, base=base)
    result = minimize(model, "cat dog", 1e-4, how=MinimizeSettings(iterations=3), settings=SETTINGS)
    assert result.value[0] < result.trace[0][0] and result.arguments["guidance_scale"] == 3.0
    before, after = draw(model, result, SETTINGS)
    assert before.shape == (1, 3, 16, 16) and not torch.equal(before, after)


def test_what_needs_an_unconditional_prediction_is_refused() -> None:
    pipe, base = tuned_family("flux")
    model = open_model(pipe, base=base)
    plain = DetectSettings(schedule_steps=4, resolution=16)
    with pytest.raises(ValueError, match="a guidance-distilled model has no unconditional prediction; take drift"):
        next(measure_prompts(model, ["cat"], plain))
    anchored = DetectSettings(detector="anchored_magnitude", schedule_steps=4, resolution=16)
    with pytest.raises(ValueError, match="anchored_magnitude: a guidance-distilled model has no unconditional"):
        next(measure_prompts(model, ["cat"], anchored))
    with pytest.raises(ValueError, match="The guard reads both branches of a call; detect, explain and minimize"):
        MemorizationGuard(pipe, base=base, threshold=1.0)
