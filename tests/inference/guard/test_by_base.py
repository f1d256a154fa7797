"""The guard beside the model before fine-tuning: what is compared, and what the base draws in its place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.inference.guard.guard import GuardSettings, MemorizationGuard, MemorizationRefused
from memsieve.inference.minimize.settings import MinimizeSettings
from tests.guided_calls import guidance
from tests.inference.memorised import Memorised, make_pipeline
from tests.inference.tuned import moved
from tests.tiny_models import GUIDED, recent_slow, side_of, tiny_family

STEPS = 5
RESCALED = ("lumina_2", "qwen_image")
"""Families whose pipelines give the guided prediction the length of the conditional one."""


def tuned(family: str) -> tuple[Any, Any]:
    """A pipeline and the one that it was made of: its network has gone a little way."""
    base = tiny_family(family)
    pipe = copy.deepcopy(base)
    network = getattr(pipe, "unet", None) or pipe.transformer
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return pipe, base


def call(family: str, **more: Any) -> dict[str, Any]:
    given = {
        "prompt": "cat",
        "num_inference_steps": STEPS,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(5),
        "height": side_of(family),
        "width": side_of(family),
    }
    return given | guidance(tiny_family(family), 3.0) | more  # fmt: skip


@pytest.mark.parametrize("family", recent_slow([name for name in GUIDED if name not in RESCALED]))
def test_who_is_flagged_gets_what_the_base_would_draw(family: str) -> None:
    """With every step the base's, the image is the base's own, from the same noise."""
    pipe, base = tuned(family)
    settings = GuardSettings(base_share=1.0)
    guard = MemorizationGuard(pipe, "base", base=base, threshold=1e-9, settings=settings, progress=False)
    drawn = guard(**call(family)).images
    assert guard.report.flagged == [True] and guard.report.drift[0] > 1e-3
    theirs, own = base(**call(family)).images, pipe(**call(family)).images
    assert torch.allclose(drawn, theirs, atol=2e-3) and not torch.allclose(own, theirs, atol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("family", RESCALED)
def test_a_pipeline_that_rescales_gets_the_bases_direction(family: str) -> None:
    """At the first step: the base's guided prediction, at the length of the model's own conditional one."""
    pipe, base = tuned(family)
    denoiser = denoiser_of(pipe)
    settings = GuardSettings(base_share=1.0)
    guard = MemorizationGuard(pipe, "base", base=base, threshold=1e-9, settings=settings, progress=False)
    after: list[torch.Tensor] = []

    def note(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        after.append(values["latents"])
        return values

    guard(**call(family, num_inference_steps=2, callback_on_step_end=note))
    noise = torch.randn(1, *denoiser.latent_shape(side_of(family)), generator=torch.Generator().manual_seed(5))
    times = torch.full((1,), 1000.0)
    with torch.no_grad():
        states = denoiser.conditioning(["cat"]), denoiser.unconditional(1)
        theirs = [denoiser.predict(base.transformer, noise, times, part) for part in states]
        own = denoiser.predict(pipe.transformer, noise, times, states[0])
    guided = theirs[1] + 3.0 * (theirs[0] - theirs[1])
    start, end = pipe.scheduler.sigmas[:2]
    went = (unpacked(denoiser, after[0], noise) - noise) / (end - start)
    assert torch.allclose(went, rescaled(denoiser, guided, own), rtol=1e-3, atol=1e-3)


def unpacked(denoiser: Any, latents: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return denoiser._unpack(latents, *like.shape[-2:]) if latents.ndim == 3 else latents  # type: ignore[no-any-return]


def rescaled(denoiser: Any, guided: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
    """``guided`` at the length of ``cond``, along the last axis that the pipeline sees."""
    if not hasattr(denoiser, "_pack"):
        return guided * (cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
    one, two = denoiser._pack(guided), denoiser._pack(cond)
    scaled = one * (two.norm(dim=-1, keepdim=True) / one.norm(dim=-1, keepdim=True))
    return denoiser._unpack(scaled, *guided.shape[-2:])  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", recent_slow(GUIDED))
def test_who_is_not_flagged_is_drawn_as_ever(family: str) -> None:
    pipe, base = tuned(family)
    guard = MemorizationGuard(pipe, "base", base=base, threshold=1e9, progress=False)
    assert torch.equal(guard(**call(family)).images, pipe(**call(family)).images)
    assert guard.report.flagged == [False]


def test_the_base_draws_the_first_steps_alone() -> None:
    pipe, base = tuned("sd")
    seen: list[torch.Tensor] = []
    base.unet.register_forward_hook(lambda *_: seen.append(torch.zeros(0)))
    settings = GuardSettings(base_share=0.4)
    guard = MemorizationGuard(pipe, "base", base=base, threshold=1e-9, settings=settings, progress=False)
    guard(**call("sd"))
    assert len(seen) == 2, "at two of five steps, the first of which is also compared"


def test_only_flagged_images_of_a_call_are_drawn_by_the_base() -> None:
    pipe, base = tuned("sd")
    two = {"prompt": ["cat", "a dog on a log"], "generator": [torch.Generator().manual_seed(i) for i in (5, 6)]}
    plain = pipe(**call("sd", **two)).images
    watcher = MemorizationGuard(pipe, base=base, threshold=1e9, progress=False)
    watcher(**call("sd", **two | {"generator": [torch.Generator().manual_seed(i) for i in (5, 6)]}))
    low, high = sorted(watcher.report.drift)
    settings = GuardSettings(base_share=1.0)
    guard = MemorizationGuard(pipe, "base", base=base, threshold=(low + high) / 2, settings=settings, progress=False)
    drawn = guard(**call("sd", **two | {"generator": [torch.Generator().manual_seed(i) for i in (5, 6)]})).images
    theirs = base(**call("sd", **two | {"generator": [torch.Generator().manual_seed(i) for i in (5, 6)]})).images
    assert sorted(guard.report.flagged) == [False, True]
    for image, flagged in enumerate(guard.report.flagged):
        assert torch.allclose(drawn[image], (theirs if flagged else plain)[image], atol=2e-3)


def test_a_lora_is_switched_off_and_needs_no_second_model() -> None:
    from peft import LoraConfig

    plain, pipe = tiny_family("sd"), tiny_family("sd")
    pipe.unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    settings = GuardSettings(base_share=1.0)
    guard = MemorizationGuard(pipe, "base", base="lora", threshold=1e-9, settings=settings, progress=False)
    assert torch.allclose(guard(**call("sd")).images, plain(**call("sd")).images, atol=1e-4)
    assert guard.report.drift[0] > 1e-4
    with pytest.raises(ValueError, match="has no LoRA adapter"):
        MemorizationGuard(plain, base="lora", threshold=1.0)


@pytest.mark.trains
def test_a_planted_caption_stands_out_beside_the_base_and_is_no_longer_drawn(memorised: Memorised) -> None:
    """The base never met it; the level is that of ordinary prompts."""
    base = copy.deepcopy(memorised.pipe)
    base.unet = make_pipeline("v_prediction", seed=1, boost=1.0).unet
    guard = MemorizationGuard(
        memorised.pipe, "base", base=base, ordinary=memorised.ordinary, false_positive_rate=0.1,
        settings=GuardSettings(base_share=1.0), progress=False,
    )  # fmt: skip
    options = {"num_inference_steps": 10, "guidance_scale": 3.0, "output_type": "latent", "num_images_per_prompt": 4}
    drawn = guard(memorised.prompt, generator=torch.Generator().manual_seed(1), **options).images
    assert guard.report.flagged == [True] * 4
    plain = memorised.pipe(memorised.prompt, generator=torch.Generator().manual_seed(1), **options).images
    assert memorised.distance(plain).max() < 0.8 < memorised.distance(drawn).min()
    refusing = MemorizationGuard(
        memorised.pipe, "refuse", base=base, ordinary=memorised.ordinary, false_positive_rate=0.1, progress=False
    )
    with pytest.raises(MemorizationRefused, match=r"drift .* at the first step, above"):
        refusing(memorised.prompt, **options)


@pytest.mark.parametrize("family", ["sd", pytest.param("flux_guided", marks=pytest.mark.slow)])
def test_minimised_is_the_drift(family: str) -> None:
    """From the call's own embeddings down to the target, as both networks' predictions have it."""
    pipe, base = tuned(family)
    watcher = MemorizationGuard(pipe, base=base, threshold=1e9, progress=False)
    watcher(**call(family))
    target = 0.9 * watcher.report.drift[0]
    settings = GuardSettings(target=target, minimize=MinimizeSettings(iterations=60))
    guard = MemorizationGuard(pipe, "minimize", base=base, threshold=1e-9, settings=settings, progress=False)
    drawn = guard(**call(family)).images
    assert guard.report.drift == pytest.approx(watcher.report.drift, rel=1e-3)
    assert guard.report.minimized[0] <= target
    assert not torch.allclose(drawn, pipe(**call(family)).images, atol=1e-3)


def test_a_base_with_other_text_encoders_is_refused() -> None:
    """The embeddings of a call are none of its own."""
    pipe, base = tuned("sd")
    base = moved(base, "text_encoder", by=0.2)
    with pytest.raises(ValueError, match=r"its text encoders are not the pipeline's .* works without base"):
        MemorizationGuard(pipe, base=base, threshold=1.0)


def test_a_lora_of_a_text_encoder_is_refused() -> None:
    from peft import LoraConfig

    pipe = tiny_family("sd")
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    pipe.text_encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="the pipeline's text_encoder has an adapter too"):
        MemorizationGuard(pipe, base="lora", threshold=1.0)


def test_the_action_needs_its_base_and_a_share_of_the_steps() -> None:
    with pytest.raises(ValueError, match="draws with the model before fine-tuning: give it with base="):
        MemorizationGuard(tiny_family("sd"), "base", threshold=1.0)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="base_share"):
            GuardSettings(base_share=share)
