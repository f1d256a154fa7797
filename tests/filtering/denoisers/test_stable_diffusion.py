"""Stable Diffusion: one CLIP encoder's last states, whole timesteps, and a UNet called by position."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from memsieve.filtering.denoisers.stable_diffusion import clip_ids
from tests.tiny_models import tiny_family

LONG = "a red hat on a mat and a cat on a red hat"
"""More letters than the tokenizer's 16 tokens."""


def test_prompts_are_encoded_as_the_pipeline_encodes_them() -> None:
    """The last states, after the encoder's own normalisation; a prompt that is too long is cut."""
    pipe = tiny_family("sd")
    prompts = ["cat dog", "", LONG]
    found = denoiser_of(pipe).conditioning(prompts)
    with torch.no_grad():
        expected = pipe.encode_prompt(prompts, "cpu", 1, False)[0]
    assert found.encoder_hidden_states.shape == (3, 16, 16) and found.encoder_hidden_states.dtype == torch.float32
    assert torch.equal(found.encoder_hidden_states, expected)
    assert found.pooled is None and found.attention_mask is None and found.time_ids is None


def test_unconditional_is_what_the_pipeline_guides_away_from() -> None:
    pipe = tiny_family("sd")
    with torch.no_grad():
        _, negative = pipe.encode_prompt("cat", "cpu", 1, True)
    assert torch.equal(denoiser_of(pipe).unconditional(2).encoder_hidden_states, negative.expand(2, -1, -1))


def test_states_have_the_dtype_of_the_text_encoder(tmp_path: Path) -> None:
    tiny_family("sd").save_pretrained(tmp_path)
    half = open_denoiser(str(tmp_path), text_dtype=torch.bfloat16)
    assert half.conditioning(["cat"]).encoder_hidden_states.dtype == torch.bfloat16


def test_token_ids_are_padded_and_cut_to_the_length_asked_for() -> None:
    tokenizer = tiny_family("sd").tokenizer
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = clip_ids(tokenizer, ["b", LONG])
    assert ids.shape == (2, 16) and ids[:, 0].tolist() == [start, start]
    assert ids[0, 2:].tolist() == [end] * 14 and ids[1, -1] == end and not (ids[1, 1:-1] == end).any()
    assert clip_ids(tokenizer, ["b", LONG], 5).shape == (2, 5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noise_target_and_ratio_are_those_of_the_pipelines_betas(kind: str) -> None:
    """Whatever scheduler draws with them: here DDIM, while diffusers' training example noises by DDPM."""
    pipe = tiny_family("sd", prediction_type=kind)
    denoiser, scheduler = denoiser_of(pipe), DDPMScheduler.from_config(pipe.scheduler.config)
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = denoiser.timesteps_at(torch.tensor([0, 500, 999]))
    assert denoiser.prediction_type == kind and denoiser.num_train_timesteps == 1000
    assert t.tolist() == [0, 500, 999] and not t.is_floating_point()
    noisy = denoiser.add_noise(latents, noise, t)
    assert torch.equal(noisy, scheduler.add_noise(latents, noise, t))
    wanted = {"epsilon": noise, "sample": latents, "v_prediction": scheduler.get_velocity(latents, noise, t)}
    target = denoiser.target(latents, noise, t)
    assert torch.equal(target, wanted[kind])
    assert torch.allclose(denoiser.to_epsilon(target, noisy, t), noise, atol=1e-3)
    alphas = pipe.scheduler.alphas_cumprod[t]
    assert torch.allclose(denoiser.snr(t), alphas / (1 - alphas), rtol=1e-4)


def test_a_prediction_type_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    tiny_family("sd").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="prediction_type 'noise' is not known; use epsilon, v_prediction or sample"):
        open_denoiser(str(tmp_path), "noise")


def test_a_call_is_read_by_place_and_by_name() -> None:
    """diffusers' pipelines give the first arguments by place and the states by name; both may change."""
    denoiser = denoiser_of(tiny_family("sd"))
    noisy, states = torch.randn(2, 4, 8, 8), torch.randn(2, 16, 16)
    by_place = denoiser.read_call((noisy, 7, states), {})
    by_name = denoiser.read_call((noisy,), {"timestep": torch.tensor(7), "encoder_hidden_states": states})
    for sample, timestep, conditioning in (by_place, by_name):
        assert sample is noisy and int(timestep) == 7 and conditioning.encoder_hidden_states is states


def test_the_pipeline_has_no_safety_checker_and_does_not_complain() -> None:
    denoiser = denoiser_of(tiny_family("sd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe = denoiser.pipeline()
    assert pipe.safety_checker is None and pipe.config.requires_safety_checker is False


def test_the_encoder_stands_at_all_positions() -> None:
    denoiser = denoiser_of(tiny_family("sd"))
    (part,) = denoiser.text_layout()
    assert (part.encoder, part.first, part.length, part.features) == ("text_encoder", 0, 16, (0, None))
    assert part.tokenizer is denoiser.tokenizer and part.has_start
