"""The guard: free of extra passes, invisible on ordinary prompts, and each of its actions on a memorised one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import memsieve
from memsieve.inference.guard.guard import MemorizationGuard, MemorizationRefused, MemorizationWarning
from memsieve.inference.guard.settings import GuardSettings
from memsieve.inference.minimize.settings import MinimizeSettings

OPTIONS: dict[str, Any] = {"num_inference_steps": 10, "guidance_scale": 3.0, "output_type": "latent"}


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def guard(memorised: Any, action: str, **options: Any) -> MemorizationGuard:
    return MemorizationGuard(
        memorised.pipe, action, ordinary=memorised.ordinary, false_positive_rate=0.07, progress=False, **options
    )


@pytest.mark.trains
@pytest.mark.parametrize("action", ["warn", "refuse", "minimize", "delay"])
@pytest.mark.filterwarnings("error")
def test_ordinary_prompts_are_drawn_as_ever(memorised: Any, action: str) -> None:
    guarded = guard(memorised, action, threshold=memorised.threshold)
    for prompt in ("red dog", ["a hat", "big tree"]):
        plain = memorised.pipe(prompt, generator=seeded(), **OPTIONS).images
        assert torch.equal(guarded(prompt, generator=seeded(), **OPTIONS).images, plain)
        assert guarded.report.flagged == [False] * len(plain) and len(guarded.report.magnitudes) == 10
    assert not memorised.pipe.unet._forward_hooks


@pytest.mark.trains
def test_the_threshold_is_what_the_ordinary_prompts_hardly_exceed(memorised: Any) -> None:
    guarded = guard(memorised, "warn")
    with pytest.warns(MemorizationWarning):
        guarded([memorised.prompt, *memorised.ordinary[:3]], generator=seeded(), **OPTIONS)
    report = guarded.report
    assert report.flagged == [value > report.threshold for value in report.magnitudes[0]] and report.flagged[0]
    assert 0 < report.threshold < memorised.threshold


@pytest.mark.trains
def test_measuring_is_free(memorised: Any) -> None:
    guarded = guard(memorised, "warn", threshold=1e9)
    calls = []
    hook = memorised.pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    guarded("red dog", **OPTIONS)
    hook.remove()
    assert len(calls) == 10 and min(guarded.report.magnitudes[0]) > 0


@pytest.mark.trains
def test_warn(memorised: Any) -> None:
    with pytest.warns(MemorizationWarning, match="2 of 2 images come from a prompt that stands out"):
        images = guard(memorised, "warn")(
            memorised.prompt, num_images_per_prompt=2, generator=seeded(), **OPTIONS
        ).images
    assert (memorised.distance(images) < 0.8).all()


@pytest.mark.trains
def test_refuse_ends_before_the_second_step(memorised: Any) -> None:
    guarded = guard(memorised, "refuse", threshold=0.8)
    calls = []
    hook = memorised.pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(MemorizationRefused, match="refuses to draw it") as caught:
        guarded(memorised.prompt, **OPTIONS)
    hook.remove()
    assert len(calls) == 1 and caught.value.report.flagged == [True] and not memorised.pipe.unet._forward_hooks


@pytest.mark.trains
def test_minimize_changes_flagged_images_alone_and_keeps_the_noise(memorised: Any) -> None:
    settings = GuardSettings(target=0.05 * memorised.magnitude, minimize=MinimizeSettings(iterations=60))
    guarded = guard(memorised, "minimize", threshold=memorised.threshold, settings=settings)
    prompts = [memorised.prompt, "red dog", memorised.prompt]
    plain = memorised.pipe(prompts, generator=[seeded(i) for i in range(3)], **OPTIONS).images
    images = guarded(prompts, generator=[seeded(i) for i in range(3)], **OPTIONS).images
    report = guarded.report
    assert report.flagged == [True, False, True]
    assert (memorised.distance(plain) < 0.8).tolist() == [True, False, True], "the premise"
    assert memorised.distance(images)[[0, 2]].min() > 0.8
    assert torch.allclose(images[1], plain[1], atol=1e-3), "the ordinary prompt beside them is drawn from its own noise"
    assert math.isnan(report.minimized[1])
    assert max(report.minimized[0], report.minimized[2]) < 0.9 * memorised.magnitude
    assert len(report.magnitudes) == 10 and report.magnitudes[0][0] > report.threshold
    torch.manual_seed(5)
    first = guarded(memorised.prompt, num_images_per_prompt=2, **OPTIONS).images
    torch.manual_seed(5)
    assert torch.equal(first, guarded(memorised.prompt, num_images_per_prompt=2, **OPTIONS).images)


@pytest.mark.trains
def test_delay_turns_guidance_off_until_the_magnitude_has_fallen(memorised: Any) -> None:
    never = guard(memorised, "delay", settings=GuardSettings(fall=1e-9), threshold=memorised.threshold)
    images = never([memorised.prompt, "red dog"], generator=[seeded(0), seeded(1)], **OPTIONS).images
    unguided = memorised.pipe("", generator=[seeded(0)], **OPTIONS).images
    assert torch.allclose(images[0], unguided[0], atol=1e-3) and never.report.released == [None, 0]
    early = guard(memorised, "delay", settings=GuardSettings(fall=1.0))
    early(memorised.prompt, generator=seeded(), **OPTIONS)
    (released,) = early.report.released
    values = [row[0] for row in early.report.magnitudes]
    assert released is not None and released > 0 and values[released] > values[released - 1] <= max(values[:released])


@pytest.mark.trains
def test_names_are_exported_and_refusals(memorised: Any, build_pipeline: Callable[..., Any]) -> None:
    assert memsieve.MemorizationGuard is MemorizationGuard and callable(memsieve.detect)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        memsieve.nothing  # noqa: B018
    with pytest.raises(ValueError, match="action = 'pray'"):
        MemorizationGuard(memorised.pipe, "pray")
    with pytest.raises(ValueError, match="guidance_scale = 1: must be above 1"):
        guard(memorised, "warn")("cat", guidance_scale=1.0)
    with pytest.raises(ValueError, match="needs at least 99 ordinary prompts, and there are 1"):
        MemorizationGuard(memorised.pipe, ordinary=["cat"])
    with pytest.warns(UserWarning, match="with a negative prompt"):
        guard(memorised, "warn", threshold=1e9)("red dog", negative_prompt="cat", **OPTIONS)
    distilled = build_pipeline()
    distilled.unet.register_to_config(time_cond_proj_dim=4)
    with pytest.raises(ValueError, match="guidance-distilled"):
        MemorizationGuard(distilled)
