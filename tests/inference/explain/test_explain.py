"""Words and their significance: finite differences, joined tokens, batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.explain.explain import explain
from memsieve.inference.opened import open_model


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_significance_equals_finite_differences(build_pipeline: Callable[..., Any], prediction_type: str) -> None:
    """The whole gradient of one token, coordinate by coordinate, in float64, along a guided trajectory of our own."""
    pipe = build_pipeline(prediction_type)
    settings = DetectSettings(steps=3, schedule_steps=10, guidance_scale=4.0)
    found = explain(pipe, "cat dog", settings=settings, at_steps=[2])
    model = open_model(pipe)
    x, cond, uncond = model.noise(["cat dog"], [0], 0), model.encode(["cat dog"]), model.unconditional(1)
    unet, scheduler = pipe.unet.double(), pipe.scheduler
    scheduler.set_timesteps(10)
    x, cond, uncond = x.double(), *(c.encoder_hidden_states.double() for c in (cond, uncond))
    with torch.no_grad():
        for t in scheduler.timesteps[:2]:
            c, u = (unet(x, t, encoder_hidden_states=s).sample for s in (cond, uncond))
            x = scheduler.step(u + 4.0 * (c - u), t, x).prev_sample.double()
        t = scheduler.timesteps[2]
        factor = 1.0 if prediction_type == "epsilon" else float(scheduler.alphas_cumprod[t]) ** 0.5
        base = unet(x, t, encoder_hidden_states=uncond).sample

        def d(states: torch.Tensor) -> float:
            return factor * float((unet(x, t, encoder_hidden_states=states).sample - base).norm())

        assert found.value == pytest.approx(d(cond), rel=1e-4)
        for position in (0, 1, 4):
            gradient = []
            for k in range(cond.shape[-1]):
                step = torch.zeros_like(cond)
                step[0, position, k] = 1e-5
                gradient.append((d(cond + step) - d(cond - step)) / 2e-5)
            expected = float(np.linalg.norm(gradient))
            assert expected > 1e-3, "a gradient of zero would prove nothing"
            assert found.encoders[0].tokens[position].significance == pytest.approx(expected, rel=1e-3)


def test_words_join_their_tokens_and_repeats_stay_apart(build_pipeline: Callable[..., Any]) -> None:
    found = explain(build_pipeline(), "cat dog  cat, <b>", settings=DetectSettings(schedule_steps=10))
    assert [word.text for word in found.words] == ["cat", "dog", "cat,", "<b>"]
    (encoder,) = found.encoders
    tokens = encoder.tokens
    assert [t.text for t in tokens[:10]] == ["<|startoftext|>", "cat", "d", "o", "g", "cat", ",", "<", "b", ">"]
    assert [t.kind for t in tokens] == ["start"] + ["word"] * 9 + ["end"] + ["padding"] * 5
    dog = sum(t.significance**2 for t in tokens[2:5]) ** 0.5
    assert found.words[1].significance == pytest.approx(dog) and dog > 0
    assert found.words[0].significance != found.words[2].significance
    assert encoder.padding == pytest.approx(sum(t.significance**2 for t in tokens[11:]) ** 0.5)
    total = sum(t.significance**2 for t in tokens)
    apart = encoder.start**2 + encoder.end**2 + encoder.padding**2
    assert total == pytest.approx(apart + sum(w.significance**2 for w in found.words)), "nothing counted twice or lost"


def test_the_number_of_images_and_the_batch_do_not_scale_it(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline()
    one = [
        explain(pipe, "cat", settings=DetectSettings(schedule_steps=10, images_per_prompt=4), batch=batch).words[0]
        for batch in (1, 4)
    ]
    assert one[0].significance == pytest.approx(one[1].significance, rel=1e-3)
    assert all(p.requires_grad and p.grad is None for p in pipe.unet.parameters()), "the pipeline is as it was"


def test_long_prompts_and_odd_text(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline()
    found = explain(pipe, "a " * 30, settings=DetectSettings(schedule_steps=10))
    assert len(found.words) == 30 and found.words[20].significance == 0 and len(found.cut.split()) == 16
    assert [t.kind for t in found.encoders[0].tokens].count("word") == 14
    with pytest.raises(ValueError, match="the prompt is empty"):
        explain(pipe, " ")
    with pytest.raises(ValueError, match=r"--at-steps = \[10\]: must be from 0 to 9"):
        explain(pipe, "cat", settings=DetectSettings(schedule_steps=10), at_steps=[10])
