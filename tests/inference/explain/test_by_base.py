"""Words by the drift from the model before fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.explain.explain import explain
from memsieve.inference.opened import open_model
from tests.inference.tuned import moved

SETTINGS = DetectSettings(detector="drift", steps=3, schedule_steps=10, guidance_scale=4.0)


@pytest.mark.parametrize("text", [False, True], ids=["the same encoder", "a fine-tuned encoder"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_significance_equals_finite_differences(
    build_pipeline: Callable[..., Any], prediction_type: str, text: bool
) -> None:
    """In float64, with the base's prediction held still: by its own encoding of the prompt, whatever the model's is."""
    base = build_pipeline(prediction_type)
    pipe = moved(base)
    if text:
        pipe.text_encoder = moved(base, "text_encoder", by=0.2).text_encoder
    model = open_model(pipe, base=base)
    assert model.base is not None and model.base.same_text is not text
    found = explain(model, "cat dog", settings=SETTINGS, at_steps=[2])
    assert found.measure == "drift"
    x, cond, uncond = model.noise(["cat dog"], [0], 0), model.encode(["cat dog"]), model.unconditional(1)
    own = base.encode_prompt("cat dog", "cpu", 1, False)[0].double()
    unet, scheduler = pipe.unet.double(), pipe.scheduler
    scheduler.set_timesteps(10)
    x, cond, uncond = x.double(), *(c.encoder_hidden_states.double() for c in (cond, uncond))
    assert torch.allclose(own, cond) is not text
    with torch.no_grad():
        for t in scheduler.timesteps[:2]:
            c, u = (unet(x, t, encoder_hidden_states=s).sample for s in (cond, uncond))
            x = scheduler.step(u + 4.0 * (c - u), t, x).prev_sample.double()
        t = scheduler.timesteps[2]
        factor = 1.0 if prediction_type == "epsilon" else float(scheduler.alphas_cumprod[t]) ** 0.5
        before = base.unet.double()(x, t, encoder_hidden_states=own).sample

        def d(states: torch.Tensor) -> float:
            delta = unet(x, t, encoder_hidden_states=states).sample - before
            return factor * float(delta.norm()) / delta.numel() ** 0.5

        assert found.value == pytest.approx(d(cond), rel=1e-4)
        gradient = []
        for k in range(cond.shape[-1]):
            step = torch.zeros_like(cond)
            step[0, 1, k] = 1e-5
            gradient.append((d(cond + step) - d(cond - step)) / 2e-5)
        expected = float(np.linalg.norm(gradient))
        assert expected > 1e-5, "a gradient of zero would prove nothing"
        assert found.encoders[0].tokens[1].significance == pytest.approx(expected, rel=1e-3)


@pytest.mark.trains
def test_the_planted_captions_words_call_up_what_was_learned(memorised: Any) -> None:
    """Beside the network before training its words weigh more than those of an ordinary caption."""
    model = open_model(memorised.pipe, base=memorised.before())
    settings = DetectSettings(detector="drift", schedule_steps=10, guidance_scale=3.0, images_per_prompt=2)
    planted, other = (explain(model, text, settings=settings) for text in (memorised.prompt, memorised.ordinary[-1]))
    heaviest = [max(word.significance for word in found.words) for found in (planted, other)]
    assert heaviest[0] > 2 * heaviest[1] and planted.value > other.value
