"""What all families share: parts that are shared or frozen, latents, empty captions, and what follows from configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EDMEulerScheduler, UNet2DConditionModel

from memsieve.filtering.denoisers.parts import NETWORKS
from memsieve.filtering.denoisers.registry import check_drawn, denoiser_of, open_denoiser
from tests.tiny_models import recent_slow, tiny_family

Folder = Callable[[str], Path]


def with_unet(pipe: Any, **settings: Any) -> Any:
    config = {name: value for name, value in pipe.unet.config.items() if name != "_use_default_values"}
    pipe.register_modules(unet=UNet2DConditionModel.from_config(config | settings))
    return pipe


# -- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recent_slow())
def test_a_pipeline_in_memory_is_shared_and_left_as_it_is(name: str) -> None:
    pipe = tiny_family(name)
    (network,) = set(NETWORKS) & pipe.components.keys()
    pipe.components[network].train()
    pipe.vae.to(torch.bfloat16)
    shifts = pipe.scheduler.config.get("use_dynamic_shifting")
    pipe.scheduler.set_timesteps(2, mu=1.0) if shifts else pipe.scheduler.set_timesteps(2)
    before = pipe.scheduler.timesteps.clone()
    denoiser = denoiser_of(pipe)
    assert all(
        getattr(denoiser, "model" if part in NETWORKS else part) is getattr(pipe, part) for part in denoiser.parts
    )
    assert denoiser.model.training and pipe.vae.dtype == torch.bfloat16 and denoiser.device == pipe.device
    assert all(parameter.requires_grad for parameter in pipe.vae.parameters())
    assert denoiser.noise_scheduler is not pipe.scheduler and torch.equal(pipe.scheduler.timesteps, before)


def test_what_is_encoded_goes_to_where_the_pipeline_is() -> None:
    assert denoiser_of(tiny_family("sd").to("meta")).device.type == "meta"


def test_a_folder_is_opened_frozen_but_for_the_network_each_part_in_its_dtype(family_folder: Folder) -> None:
    half, low = torch.float16, torch.bfloat16
    denoiser = open_denoiser(str(family_folder("sdxl")), dtype=half, model_dtype=torch.float32, text_dtype=low)
    assert denoiser.vae.dtype == half and denoiser.model.dtype == torch.float32
    frozen = [denoiser.vae, denoiser.text_encoder, denoiser.text_encoder_2]
    assert {part.dtype for part in frozen[1:]} == {low}
    assert not any(parameter.requires_grad for part in frozen for parameter in part.parameters())
    assert not any(part.training for part in frozen) and all(p.requires_grad for p in denoiser.model.parameters())
    assert denoiser.folder == str(family_folder("sdxl"))
    plain = open_denoiser(str(family_folder("sdxl")), dtype=half)
    assert plain.text_encoder.dtype == half, "that of the frozen parts, where there is no other"


def test_the_frozen_parts_are_moved_and_the_network_is_not() -> None:
    """To torch's own device without memory. A pipeline may lack a part (SD3's T5)."""
    pipe = tiny_family("sd3")
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    denoiser = denoiser_of(pipe)
    assert denoiser.to(torch.device("meta")) is denoiser and denoiser.device.type == "meta"
    assert {part.device.type for part in (denoiser.vae, denoiser.text_encoder, denoiser.text_encoder_2)} == {"meta"}
    assert denoiser.model.device.type == "cpu"


def test_a_pipeline_that_is_only_drawn_with_may_have_any_scheduler_and_no_other_network() -> None:
    pipe = tiny_family("sdxl")
    pipe.register_modules(scheduler=EDMEulerScheduler())
    check_drawn(pipe)
    with pytest.raises(ValueError, match="--model: the network of the pipeline takes 9 channels.*inpainting"):
        check_drawn(with_unet(pipe, in_channels=9))


# -- images ------------------------------------------------------------------------------------------------------------


def test_latents_are_the_posterior_sampled_by_the_given_noise_in_single_precision() -> None:
    pipe = tiny_family("sd")
    pipe.vae.to(torch.bfloat16)
    denoiser = denoiser_of(pipe)
    pixels = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = denoiser.posterior(pixels)
    assert mean.shape == std.shape == (2, 4, 8, 12) and mean.dtype == torch.bfloat16 and not mean.requires_grad
    noise = torch.ones(2, 4, 8, 12)
    latents = denoiser.sample_latents((mean, std), noise)
    assert latents.dtype == torch.float32
    assert torch.allclose(latents, (mean + std).float() * pipe.vae.config.scaling_factor, rtol=0.02)
    assert torch.equal(denoiser.latents(pixels, noise), latents)
    still = denoiser.sample_latents((mean, std), torch.zeros_like(noise))
    assert torch.allclose(still, mean.float() * pipe.vae.config.scaling_factor, rtol=0.02)


@pytest.mark.parametrize(("name", "multiple"), [("sd", 2), ("sdxl", 2), ("sd3", 4), ("flux", 4), ("pixart", 4)])
def test_a_resolution_that_cannot_be_cut_into_latents_and_patches_is_refused(name: str, multiple: int) -> None:
    denoiser = denoiser_of(tiny_family(name))
    assert denoiser.latent_shape(5 * multiple) == (4, 5 * multiple // 2, 5 * multiple // 2)
    wrong = 5 * multiple + 1 if multiple == 2 else 18
    with pytest.raises(ValueError, match=rf"data\.resolution: {wrong} must be a multiple of {multiple} for this model"):
        denoiser.latent_shape(wrong)


@pytest.mark.parametrize("sides", [12, (12, 12), [12, 10]])
def test_the_models_resolution_is_the_pixels_of_its_height(sides: Any) -> None:
    """Some UNets name one side, some two."""
    assert denoiser_of(with_unet(tiny_family("sd"), sample_size=sides)).resolution == 24


# -- prompts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recent_slow())
def test_an_empty_caption_is_the_unconditional_one_among_others_too(name: str) -> None:
    denoiser = denoiser_of(tiny_family(name))
    mixed, alone, empty = (
        denoiser.conditioning(["cat", "", "b"]),
        denoiser.conditioning(["cat"]),
        denoiser.unconditional(1),
    )
    for part in ("encoder_hidden_states", "pooled", "attention_mask"):
        found, cat, none = (getattr(conditioning, part) for conditioning in (mixed, alone, empty))
        if found is not None:
            assert torch.allclose(found[0], cat[0], atol=1e-6) and torch.equal(found[1], none[0]), part
            assert not torch.equal(found[2], none[0]) or part == "attention_mask"
            assert not found.requires_grad


def test_the_unconditional_prompt_is_encoded_once_and_takes_part_in_gradients() -> None:
    """Also where it was first asked for in inference mode, whose tensors never can."""
    pipe = tiny_family("sd")
    denoiser, calls = denoiser_of(pipe), []
    pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        denoiser.unconditional(1)
    found = denoiser.unconditional(3).encoder_hidden_states
    assert len(found) == 3 and len(calls) == 1 and not found.is_inference() and not found.requires_grad
    weight = torch.ones(16, requires_grad=True)
    (found * weight).sum().backward()
    assert weight.grad is not None and weight.grad.any()


# -- what a config says ------------------------------------------------------------------------------------------------


def test_a_network_with_the_guidance_scale_in_it_has_no_unconditional_prediction() -> None:
    """As an LCM has it, in its UNet; Flux says so in another word."""
    assert denoiser_of(tiny_family("sd")).distilled is None
    said = denoiser_of(with_unet(tiny_family("sd"), time_cond_proj_dim=8)).distilled
    assert said is not None and said.startswith("guidance is distilled into it, so that it has no unconditional")


@pytest.mark.parametrize("name", recent_slow())
def test_noise_grows_with_timesteps_from_none_to_all(name: str) -> None:
    """In units of the network's own, whatever a family's scheduler counts in."""
    denoiser = denoiser_of(tiny_family(name))
    t = denoiser.timesteps_at(torch.arange(0, denoiser.num_train_timesteps, 37))
    assert (t[1:] > t[:-1]).all() and float(t.min()) >= 0 and float(t.max()) <= denoiser.num_train_timesteps
    latents, noise = torch.ones(len(t), 1, 1, 1), torch.zeros(len(t), 1, 1, 1)
    kept = denoiser.add_noise(latents, noise, t).flatten()
    assert (kept[1:] < kept[:-1]).all() and kept[0] > 0.9 and kept[-1] < 0.3
