"""Every model family beside its base: detection, explanation and minimisation by the drift."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memsieve.inference.detect.detect import detect
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.explain.explain import explain
from memsieve.inference.minimize.minimize import minimize
from memsieve.inference.minimize.settings import MinimizeSettings
from memsieve.inference.opened import open_model
from tests.inference.tuned import tuned_family
from tests.tiny_models import DISTILLED, TINY_FAMILIES, side_of

SETTINGS = DetectSettings(detector="drift", steps=2, schedule_steps=4, guidance_scale=3.0, resolution=16)

FAMILIES = [
    pytest.param(name, marks=() if name in ("sd", "sdxl", "sd3", "flux") else pytest.mark.slow)
    for name in TINY_FAMILIES
]


def settings_of(name: str) -> DetectSettings:
    return replace(SETTINGS, resolution=side_of(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_drift_is_what_both_networks_say_apart(name: str) -> None:
    """Along the model's own trajectory (unguided where guidance is distilled), by a base that was opened by itself."""
    pipe, base = tuned_family(name)
    model, before = open_model(pipe, base=base), open_model(base, base=pipe)
    (found,) = measure_prompts(model, ["cat dog"], settings_of(name))
    cond = model.encode(["cat dog"])
    uncond = None if name in DISTILLED else model.unconditional(1)
    noise = model.noise(["cat dog"], [0], 0, side_of(name))
    for step in model.trajectory(noise, cond, uncond, steps=2, schedule_steps=4, guidance_scale=3.0):
        theirs = before.predict_one(step.model_input, step.timestep, before.encode(["cat dog"]))
        apart = float((step.cond - theirs).detach().square().mean().sqrt())
        expected = model.factor(step.timestep) * apart
        assert found.per_step["drift"][0, step.index] == pytest.approx(expected, rel=1e-3) and expected > 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_detected_explained_and_minimised(name: str) -> None:
    pipe, base = tuned_family(name)
    model = open_model(pipe, base=base)
    found = detect(model, ["cat dog", "b"], settings=settings_of(name), ordinary=["a", "b c"], false_positive_rate=0.4)
    assert all(result.error is None and result.score > 0 for result in found) and found[0].score != found[1].score
    told = explain(model, "cat dog", settings=settings_of(name), at_steps=[0])
    assert told.measure == "drift" and told.value == pytest.approx(found[0].per_step[0], rel=1e-3)
    assert all(word.significance > 0 for word in told.words)
    result = minimize(
        model, "cat dog", 0.97 * told.value, how=MinimizeSettings(iterations=20), settings=settings_of(name)
    )
    assert result.value[0] < result.trace[0][0] == pytest.approx(told.value, rel=1e-3)
    assert torch.isfinite(result.prompt_embeds).all()
