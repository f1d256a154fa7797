"""What is measured of a prompt: the formula against plain loops, batches, schedulers, precisions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)

from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.opened import open_model
from tests.tiny_models import tiny_family

PROMPTS = ["cat", "a dog on a log", "z"]


def plain_loop(
    pipe: StableDiffusionPipeline, prompt: str, noise: torch.Tensor, steps: int, scale: float
) -> list[float]:
    """||eps_c - eps_0|| of one image by UNet and scheduler alone, both predictions turned into epsilon."""
    scheduler = DDIMScheduler.from_config(dict(pipe.scheduler.config))
    scheduler.set_timesteps(10)
    with torch.no_grad():
        states = []
        for text in ("", prompt):
            ids = pipe.tokenizer(
                text, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
            ).input_ids
            states.append(pipe.text_encoder(ids)[0])
        x, found = noise.double(), []
        unet = pipe.unet.double()
        for t in scheduler.timesteps[:steps]:
            uncond, cond = (unet(x, t, encoder_hidden_states=s.double()).sample for s in states)
            eps = [uncond, cond]
            if scheduler.config.prediction_type == "v_prediction":
                alpha = scheduler.alphas_cumprod[t].double() ** 0.5
                sigma = (1 - scheduler.alphas_cumprod[t].double()) ** 0.5
                eps = [alpha * v + sigma * x for v in (uncond, cond)]
            found.append(float((eps[1] - eps[0]).square().sum().sqrt()))
            x = scheduler.step(uncond + scale * (cond - uncond), t, x).prev_sample.double()
    pipe.unet.float()
    return found


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_magnitudes_equal_a_plain_loop(build_pipeline: Callable[..., Any], prediction_type: str) -> None:
    pipe = build_pipeline(prediction_type)
    model = open_model(pipe)
    settings = DetectSettings(steps=4, schedule_steps=10, images_per_prompt=2, guidance_scale=5.0, seed=7)
    measured = list(measure_prompts(model, PROMPTS, settings, batch=4))
    for measurement in measured:
        for j in range(2):
            noise = model.noise([measurement.prompt], [j], 7)
            expected = plain_loop(pipe, measurement.prompt, noise, 4, 5.0)
            assert min(expected) > 0.01, "a reference of zero would prove nothing"
            assert measurement.magnitudes[j] == pytest.approx(expected, rel=1e-5)
    assert len({round(float(m.magnitudes[0, 0]), 6) for m in measured}) == 3, "prompts differ"


def test_a_flow_models_magnitudes_equal_a_plain_loop() -> None:
    """Stable Diffusion 3 by its transformer and Euler's rule alone, in double precision: x += (s' - s) v."""
    pipe = tiny_family("sd3")
    model = open_model(pipe)
    settings = DetectSettings(steps=4, schedule_steps=10, guidance_scale=5.0, seed=7, resolution=16)
    measured = list(measure_prompts(model, ["cat", "a dog"], settings))
    sigmas = np.linspace(1.0, 1 / 1000, 1000)
    sigmas = 3 * sigmas / (1 + 2 * sigmas)  # the scheduler's shift of 3
    grid = np.linspace(1000 * sigmas[0], 1000 * sigmas[-1], 10) / 1000
    grid = np.append(3 * grid / (1 + 2 * grid), 0.0)
    expected = []
    for prompt in ("cat", "a dog"):
        with torch.no_grad():
            cond, uncond, pooled, unpooled = pipe.encode_prompt(prompt, None, None, negative_prompt="")
            x, transformer = model.noise([prompt], [0], 7, 16).double(), pipe.transformer.double()
            for s, after in pairwise(grid[:5]):
                with_, without = (
                    transformer(
                        hidden_states=x, timestep=torch.tensor([1000 * s]), encoder_hidden_states=states.double(),
                        pooled_projections=summary.double(),
                    ).sample
                    for states, summary in ((cond, pooled), (uncond, unpooled))
                )  # fmt: skip
                factor = 1.0 if 1 - s < 0.05 else 1 - s
                expected.append(factor * float((with_ - without).square().sum().sqrt()))
                x = x + (after - s) * (without + 5 * (with_ - without))
            pipe.transformer.float()
    found = [float(value) for m in measured for value in m.magnitudes[0]]
    assert min(expected) > 0.01 and grid[0] == pytest.approx(1.0)
    assert found == pytest.approx(expected, rel=1e-5)


def test_native_space_is_the_networks_own(build_pipeline: Callable[..., Any]) -> None:
    model = open_model(build_pipeline("v_prediction"))
    native, eps = (
        next(measure_prompts(model, ["cat"], DetectSettings(schedule_steps=10, space=space))).magnitudes[0, 0]
        for space in ("native", "epsilon")
    )
    t = model.timesteps(10)[0]
    assert eps == pytest.approx(native * float(model.pipe.scheduler.alphas_cumprod[t]) ** 0.5, rel=1e-5) and eps > 0


def test_batch_order_and_count_do_not_matter(build_pipeline: Callable[..., Any]) -> None:
    model = open_model(build_pipeline())
    settings = DetectSettings(steps=2, schedule_steps=10, images_per_prompt=3)
    one, many = (list(measure_prompts(model, PROMPTS, settings, batch)) for batch in (1, 16))
    for a, b in zip(one, many, strict=True):
        assert a.magnitudes == pytest.approx(b.magnitudes, rel=1e-4)
    alone = list(measure_prompts(model, ["z"], settings))
    assert alone[0].magnitudes == pytest.approx(one[2].magnitudes, rel=1e-4)
    single = DetectSettings(steps=2, schedule_steps=10, images_per_prompt=1)
    first = next(measure_prompts(model, ["z"], single))
    assert first.magnitudes[0] == pytest.approx(one[2].magnitudes[0], rel=1e-4)


def test_nothing_runs_after_the_last_step_and_nothing_is_decoded(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline()
    calls = {"unet": 0, "vae": 0}
    pipe.unet.register_forward_hook(lambda *_: calls.__setitem__("unet", calls["unet"] + 1))
    pipe.vae.decoder.register_forward_hook(lambda *_: calls.__setitem__("vae", calls["vae"] + 1))
    list(measure_prompts(open_model(pipe), ["cat", "dog"], DetectSettings(steps=1, schedule_steps=50)))
    assert calls == {"unet": 1, "vae": 0}


def test_other_schedulers_run_their_own_trajectory(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline()
    pipe.scheduler = EulerDiscreteScheduler.from_config(dict(pipe.scheduler.config))
    settings = DetectSettings(steps=3, schedule_steps=10)
    own, ddim = (next(measure_prompts(open_model(pipe, scheduler=s), ["cat"], settings)) for s in ("own", "ddim"))
    assert np.isfinite(own.magnitudes).all() and (own.magnitudes > 0.01).all()
    assert own.magnitudes[0, 1:] != pytest.approx(ddim.magnitudes[0, 1:], rel=1e-3)


def test_cosine_at_low_noise_equals_the_formula(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline("v_prediction")
    model = open_model(pipe)
    settings = DetectSettings(detector="magnitude_cosine", schedule_steps=10)
    found = next(measure_prompts(model, ["cat"], settings)).cosine
    noise, t = model.noise(["cat"], [0], 0), model.timesteps(10)[-1]
    with torch.no_grad():
        cond, uncond = (
            pipe.unet(noise, t, encoder_hidden_states=pipe.encode_prompt(p, "cpu", 1, False)[0]).sample
            for p in ("cat", "")
        )
        alpha = pipe.scheduler.alphas_cumprod[t] ** 0.5
        eps_0 = alpha * uncond + (1 - alpha**2) ** 0.5 * noise
    expected = torch.nn.functional.cosine_similarity((cond - uncond).flatten(), eps_0.flatten(), dim=0)
    assert found is not None and found[0] == pytest.approx(float(expected), rel=1e-4) and abs(found[0]) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_measured(model_folder: Path, dtype: torch.dtype) -> None:
    half, full = (
        next(measure_prompts(open_model(model_folder, dtype=d), ["cat"], DetectSettings())).magnitudes
        for d in (dtype, torch.float32)
    )
    assert half == pytest.approx(full, rel=0.1) and (half > 0).all()
