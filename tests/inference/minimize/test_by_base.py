"""Minimisation beside the model before fine-tuning: the drift down to ordinary prompts', or to the base's own level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.minimize.edits import suggest_edits
from memsieve.inference.minimize.minimize import minimize, ordinary_target
from memsieve.inference.minimize.settings import MinimizeSettings
from memsieve.inference.opened import open_model
from tests.inference.tuned import moved

SETTINGS = DetectSettings(detector="drift", schedule_steps=10, guidance_scale=3.0)
ANCHORED = DetectSettings(detector="anchored_magnitude", schedule_steps=10, guidance_scale=3.0)


def apart(pipe: Any, result: Any, others: torch.Tensor) -> list[float]:
    """||eps_c - others|| / sqrt(n) at the first step by the pipeline's own network and what was returned."""
    pipe.scheduler.set_timesteps(10)
    with torch.no_grad():
        t = pipe.scheduler.timesteps[0]
        found = pipe.unet(result.latents, t, encoder_hidden_states=result.prompt_embeds).sample
    return (found - others).square().mean((1, 2, 3)).sqrt().tolist()


def predicted(pipe: Any, latents: torch.Tensor, prompt: str) -> torch.Tensor:
    pipe.scheduler.set_timesteps(10)
    states = pipe.encode_prompt(prompt, "cpu", 1, False)[0].expand(len(latents), -1, -1)
    with torch.no_grad():
        found: torch.Tensor = pipe.unet(latents, pipe.scheduler.timesteps[0], encoder_hidden_states=states).sample
    return found


@pytest.mark.parametrize("text", [False, True], ids=["the same encoder", "a fine-tuned encoder"])
def test_the_drift_comes_down_to_the_target(build_pipeline: Callable[..., Any], text: bool) -> None:
    """Measured with both networks; the base keeps its own encoding of the prompt."""
    base = build_pipeline()
    pipe = moved(base)
    if text:
        pipe.text_encoder = moved(base, "text_encoder", by=0.2).text_encoder
    model = open_model(pipe, base=base)
    start = minimize(model, "cat dog", 1e-6, images=3, how=MinimizeSettings(iterations=0), settings=SETTINGS)
    assert start.measure == "drift"
    assert apart(pipe, start, predicted(base, start.latents, "cat dog")) == pytest.approx(start.value, rel=1e-3)
    target = 0.9 * min(start.value)
    result = minimize(model, "cat dog", target, images=3, how=MinimizeSettings(iterations=80), settings=SETTINGS)
    assert result.met == [True] * 3 and max(result.value) <= target
    assert apart(pipe, result, predicted(base, result.latents, "cat dog")) == pytest.approx(result.value, rel=1e-3)


def test_the_anchored_magnitude_comes_down_to_each_images_own_level_of_the_base(
    build_pipeline: Callable[..., Any],
) -> None:
    base = build_pipeline()
    pipe = moved(base, by=0.1)
    model = open_model(pipe, base=base)
    result = minimize(model, "cat dog", None, images=3, how=MinimizeSettings(iterations=60), settings=ANCHORED)
    empty = predicted(base, result.latents, "")
    own = (predicted(base, result.latents, "cat dog") - empty).square().mean((1, 2, 3)).sqrt()
    assert result.targets == pytest.approx(own.tolist(), rel=1e-3) and len(set(result.targets)) == 3
    assert apart(pipe, result, empty) == pytest.approx(result.value, rel=1e-3)
    assert result.met == [value <= target for value, target in zip(result.value, result.targets, strict=True)]
    assert max(v / s for v, s in zip(result.value, result.trace[0], strict=True)) < 1
    with pytest.raises(ValueError, match="--target = 0: must be above 0"):
        minimize(model, "cat dog", None, settings=SETTINGS)


def test_ordinary_prompts_drift_is_the_target_and_edits_are_scored_by_it(build_pipeline: Callable[..., Any]) -> None:
    base = build_pipeline()
    model = open_model(moved(base), base=base)
    low, high = (ordinary_target(model, ["a", "b c", "red dog"], SETTINGS, q) for q in (0.0, 1.0))
    assert 0 < low < high < 10
    explanation, found = suggest_edits(model, "cat dog", words=1, settings=SETTINGS)
    assert explanation.measure == "drift" and found[0].change == "none"
    assert found[0].score == pytest.approx(explanation.value, rel=1e-3)
    with pytest.raises(ValueError, match="drift compares with the model before fine-tuning: name it with --base"):
        minimize(open_model(moved(base)), "cat", 1.0, settings=SETTINGS)


@pytest.mark.trains
def test_copies_go_away(memorised: Any) -> None:
    model = open_model(memorised.pipe, base=memorised.before())
    target = ordinary_target(model, memorised.ordinary, SETTINGS)
    how = MinimizeSettings(iterations=60)
    result = minimize(model, memorised.prompt, target, images=6, how=how, settings=SETTINGS)
    options = {"num_inference_steps": 10, "guidance_scale": 3.0, "output_type": "latent", "latents": result.latents}
    before = memorised.pipe([memorised.prompt] * 6, **options).images
    after = memorised.pipe(prompt_embeds=result.prompt_embeds, **options).images
    assert (memorised.distance(before) < 0.8).all(), "the premise"
    assert max(result.value) < min(result.trace[0])
    assert (memorised.distance(after) < 0.8).sum() <= 2
