"""Flux: T5 for the sequence, CLIP for one vector, packed latents, and guidance that may be distilled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from memsieve.filtering.denoisers.registry import denoiser_of
from tests.filtering.denoisers.calls import calls_of, first_call
from tests.tiny_models import tiny_family

PROMPTS = ["cat dog", "red hat on a mat"]
T5 = 512
"""Positions."""


def test_prompts_are_encoded_as_the_pipeline_encodes_them() -> None:
    """T5's states alone are the sequence; CLIP gives its pooled output."""
    pipe = tiny_family("flux")
    found = denoiser_of(pipe).conditioning(PROMPTS)
    with torch.no_grad():
        states, pooled, _ = pipe.encode_prompt(PROMPTS, None, device="cpu")
    assert found.encoder_hidden_states.shape == (2, T5, 32) and found.pooled is not None
    assert torch.equal(found.encoder_hidden_states, states) and torch.equal(found.pooled, pooled)
    assert found.pooled.shape == (2, 16) and found.attention_mask is None


def test_t5_alone_stands_in_the_sequence() -> None:
    denoiser = denoiser_of(tiny_family("flux"))
    (part,) = denoiser.text_layout()
    assert (part.encoder, part.first, part.length, part.features) == ("text_encoder_2", 0, T5, (0, None))
    assert part.tokenizer is denoiser.tokenizer_2 and not part.has_start


@pytest.mark.parametrize(("name", "guidance"), [("flux", [1.0, 1.0]), ("flux_guided", None)])
def test_latents_are_packed_as_the_pipeline_packs_them(name: str, guidance: list[float] | None) -> None:
    """Of a picture that is not square. A distilled network is told a scale of 1, others none."""
    pipe = tiny_family(name)
    denoiser = denoiser_of(pipe)
    options = {} if guidance is None else {"guidance_scale": 1.0}
    args, kwargs, output = first_call(pipe, PROMPTS, height=16, width=24, **options)
    noisy, timestep, given = denoiser.read_call(args, kwargs)
    assert noisy.shape == (2, 4, 8, 12) and timestep.tolist() == [1000.0, 1000.0]
    with calls_of(denoiser.model) as calls, torch.no_grad():
        found = denoiser.predict(denoiser.model, noisy, timestep, given)
    told = calls[0][1]
    for part in ("hidden_states", "img_ids", "txt_ids", "timestep", "pooled_projections", "encoder_hidden_states"):
        assert torch.equal(told[part], kwargs[part]), part
    assert (told["guidance"] is None) if guidance is None else (told["guidance"].tolist() == guidance)
    theirs = FluxPipeline._unpack_latents(output[0], 16, 24, denoiser.vae_factor)
    assert found.shape == noisy.shape and torch.allclose(found, theirs, atol=1e-6)


def test_a_distilled_network_is_guided_by_its_embedded_scale_and_another_by_the_empty_caption() -> None:
    noise = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    distilled, guided = (denoiser_of(tiny_family(name)) for name in ("flux", "flux_guided"))
    cond = distilled.conditioning(["cat"])
    given = distilled.call_arguments(cond, None, 3.5, noise)
    assert given["guidance_scale"] == 3.5 and "true_cfg_scale" not in given
    assert torch.equal(given["latents"], FluxPipeline._pack_latents(noise, 1, 4, 8, 12))
    given = guided.call_arguments(cond, guided.unconditional(1), 3.5)
    assert given["true_cfg_scale"] == 3.5 and not {"guidance_scale", "latents"} & given.keys()
    assert {"negative_prompt_embeds", "negative_pooled_prompt_embeds"} <= given.keys()
    assert guided.call_arguments(cond, None, 3.5)["true_cfg_scale"] == 1.0, "there is nothing to guide away from"
    assert distilled.distilled is not None and "guidance is distilled" in distilled.distilled
    assert guided.distilled is None


@pytest.mark.parametrize("resolution", [16, 32])
@pytest.mark.parametrize("shift", [{"shift": 1.0}, {"use_dynamic_shifting": True, "max_shift": 3.0}])
def test_steps_of_sampling_are_the_pipelines(shift: dict[str, Any], resolution: int) -> None:
    """Evenly spaced down to 1 / steps, shifted by the length of the sequence, or not at all (FLUX.1-schnell)."""
    pipe = tiny_family("flux")
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(**shift, base_image_seq_len=8, max_image_seq_len=100)
    denoiser = denoiser_of(pipe)
    scheduler = denoiser.sampler()
    denoiser.set_timesteps(scheduler, 2, resolution, torch.device("cpu"))
    first_call(pipe, ["cat"], height=resolution, width=resolution)
    assert torch.allclose(scheduler.timesteps, pipe.scheduler.timesteps)
    if "shift" in shift:
        assert scheduler.timesteps.tolist() == [1000.0, 500.0]


def test_resolution_and_latents_are_the_pipelines() -> None:
    pipe = tiny_family("flux")
    denoiser = denoiser_of(pipe)
    assert denoiser.resolution == pipe.default_sample_size * pipe.vae_scale_factor
    assert denoiser.latent_shape(20) == (4, 10, 10)
    with pytest.raises(ValueError, match=r"data\.resolution: 18 must be a multiple of 4"):
        denoiser.latent_shape(18)


@pytest.mark.parametrize(
    ("channels", "sentence"),
    [
        (32, "takes 8 channels, and its VAE's latents have 4: it is the network of an image editor"),
        (96, "takes 24 channels, and its VAE's latents have 4: it is one that also takes something else"),
    ],
)
def test_a_network_that_takes_a_picture_besides_is_refused(channels: int, sentence: str) -> None:
    """FLUX.1 Fill, Canny and Depth: more packed channels than four times the VAE's."""
    pipe = tiny_family("flux")
    pipe.register_modules(
        transformer=FluxTransformer2DModel(
            in_channels=channels, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6),
        )
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"--model: the network of the pipeline {sentence}"):
        denoiser_of(pipe)
