"""The core of minimisation: per image, the start token left alone, no decay, and no more change than needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.minimize.embeddings import minimize_embeddings
from memsieve.inference.minimize.minimize import minimize
from memsieve.inference.minimize.settings import METHODS, MinimizeSettings
from memsieve.inference.opened import open_model
from memsieve.inference.step import Compared, Seen

SETTINGS = DetectSettings(schedule_steps=10, guidance_scale=3.0)


@pytest.mark.parametrize("method", METHODS)
def test_start_token_and_unused_coordinates_stay(build_pipeline: Callable[..., Any], method: str) -> None:
    """No decay: a coordinate that the magnitude does not depend on must not move; nor may the start token."""
    pipe = build_pipeline()
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if "attn2.to_k" in name or "attn2.to_v" in name:
                weight[:, 5] = 0
    model = open_model(pipe)
    original = model.encode(["cat"]).encoder_hidden_states
    how = MinimizeSettings(iterations=3, lr=0.1, method=method)
    result = minimize(pipe, "cat", 1e-6, how=how, settings=SETTINGS)
    assert original[0, :, 5].abs().min() > 1e-3
    assert torch.equal(result.prompt_embeds[0, 0], original[0, 0])
    assert torch.equal(result.prompt_embeds[0, :, 5], original[0, :, 5])
    assert (result.prompt_embeds[0, 1:, :5] - original[0, 1:, :5]).abs().median() > (0.1 if method == "adamw" else 0.01)
    assert result.met == [False] and result.value[0] == min(row[0] for row in result.trace), "the best is returned"


def test_an_image_at_the_target_is_left_alone(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline()
    result = minimize(pipe, "cat", 1e6, images=2, settings=SETTINGS)
    assert len(result.trace) == 1 and result.met == [True, True]
    original = open_model(pipe).encode(["cat"])
    assert torch.equal(result.prompt_embeds[1], original.encoder_hidden_states[0])
    model = open_model(pipe)
    x, t = torch.cat([result.latents, result.latents * 1.7]), model.timesteps(10)[0]
    cond, uncond = original.expand(4), model.unconditional(4)
    compared = Compared(Seen(x, t, cond, uncond), "magnitude", model.predict_one(x, t, uncond))
    _, (start,), _ = minimize_embeddings(model, compared, 1e6, MinimizeSettings(iterations=0))
    target = sorted(start)[1] * 1.0001
    fitted, trace, _ = minimize_embeddings(model, compared, target, MinimizeSettings(iterations=5, lr=0.02))
    embeds = fitted.encoder_hidden_states
    still = [torch.equal(embeds[i], original.encoder_hidden_states[0]) for i in range(4)]
    assert still == [value <= target for value in start] and any(still) and not all(still) and len(trace) > 1


def test_closest_meets_the_target_with_less_change(build_pipeline: Callable[..., Any]) -> None:
    """Per image, the start token untouched, and nearer to the prompt's embedding than AdamW's result."""
    pipe = build_pipeline()
    original = open_model(pipe).encode(["cat dog"]).encoder_hidden_states[0]
    start = minimize(pipe, "cat dog", 1e-3, images=3, how=MinimizeSettings(iterations=0), settings=SETTINGS)
    target = 0.5 * min(start.value)
    hows = {method: MinimizeSettings(iterations=40, lr=0.05, method=method) for method in METHODS}
    options: dict[str, Any] = {"how": hows["closest"], "settings": SETTINGS}
    closest = minimize(pipe, "cat dog", target, images=3, **options)
    adamw = minimize(pipe, "cat dog", target, images=3, how=hows["adamw"], settings=SETTINGS)
    assert closest.met == adamw.met == [True] * 3 and len(closest.trace) < len(adamw.trace) + 10
    near, far = ((found.prompt_embeds - original).flatten(1).norm(dim=1) for found in (closest, adamw))
    assert (near < 0.7 * far).all() and (near > 0).all()
    assert torch.equal(closest.prompt_embeds[:, 0], original[0].expand(3, -1))
    alone = minimize(pipe, "cat dog", target, images=1, **options)
    assert torch.allclose(alone.prompt_embeds[0], closest.prompt_embeds[0], atol=2e-3)
    one = MinimizeSettings(iterations=1, lr=0.02, method="closest")
    once = minimize(pipe, "cat dog", target, how=one, settings=SETTINGS)
    moved = (once.prompt_embeds[0] - original).norm() / original.norm()
    assert float(moved) == pytest.approx(0.02, rel=1e-2), "no update is larger than the share"
    left = minimize(pipe, "cat dog", max(start.value) + 1, images=3, **options)
    assert torch.equal(left.prompt_embeds[1], original)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_finite_embeddings(model_folder: Path, dtype: torch.dtype, method: str) -> None:
    model = open_model(model_folder, dtype=dtype)
    how = MinimizeSettings(iterations=5, method=method)
    result = minimize(model, "cat dog", 0.3, images=2, how=how, settings=SETTINGS)
    assert result.prompt_embeds.dtype == dtype and torch.isfinite(result.prompt_embeds).all()
    assert max(result.value) < 0.9 * max(result.trace[0])


def test_a_target_out_of_range_is_refused(build_pipeline: Callable[..., Any]) -> None:
    for target in (-1.0, 0.0, float("nan")):
        with pytest.raises(ValueError, match=rf"--target = {target:g}: must be above 0"):
            minimize(build_pipeline(), "cat", target)
