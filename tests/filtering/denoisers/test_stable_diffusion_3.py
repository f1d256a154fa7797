"""Stable Diffusion 3: two CLIP encoders and a T5 in one sequence, flow matching, and a shift by resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from memsieve.filtering.denoisers.stable_diffusion_3 import dynamic_shift
from tests.filtering.denoisers.calls import first_call
from tests.tiny_models import tiny_family

PROMPTS = ["cat dog", "red hat on a mat"]
CLIP, T5 = 16, 256
"""Positions."""


def test_prompts_are_encoded_as_the_pipeline_encodes_them() -> None:
    """CLIP's features side by side, zeros up to T5's width, then T5's positions; both CLIP pooled vectors."""
    pipe = tiny_family("sd3")
    found = denoiser_of(pipe).conditioning(PROMPTS)
    with torch.no_grad():
        states, _, pooled, _ = pipe.encode_prompt(PROMPTS, None, None, "cpu", do_classifier_free_guidance=False)
    assert found.encoder_hidden_states.shape == (2, CLIP + T5, 40) and found.pooled is not None
    assert torch.equal(found.encoder_hidden_states, states) and torch.equal(found.pooled, pooled)
    assert found.pooled.shape == (2, 16 + 16) and found.attention_mask is None
    assert found.encoder_hidden_states[:, :CLIP, :32].all() and not found.encoder_hidden_states[:, :CLIP, 32:].any()


def test_unconditional_is_the_empty_caption() -> None:
    pipe = tiny_family("sd3")
    found = denoiser_of(pipe).unconditional(1)
    with torch.no_grad():
        _, states, _, pooled = pipe.encode_prompt("cat", None, None, "cpu")
    assert torch.equal(found.encoder_hidden_states, states) and found.pooled is not None
    assert torch.equal(found.pooled, pooled)


def test_the_second_tokenizer_is_cut_to_the_length_of_the_first() -> None:
    """Some folders give the two different lengths; the features must stand side by side."""
    pipe = tiny_family("sd3")
    pipe.tokenizer_2.model_max_length = 77
    found = denoiser_of(pipe).conditioning(PROMPTS)
    with torch.no_grad():
        expected = pipe.encode_prompt(PROMPTS, None, None, "cpu", do_classifier_free_guidance=False)[0]
    assert torch.equal(found.encoder_hidden_states, expected)


def test_without_its_t5(tmp_path: Path) -> None:
    pipe = tiny_family("sd3")
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.save_pretrained(tmp_path / "m")
    denoiser = open_denoiser(str(tmp_path / "m"))
    found = denoiser.conditioning(["cat"])
    expected = pipe.encode_prompt("cat", None, None, device="cpu")
    assert torch.allclose(found.encoder_hidden_states, expected[0], atol=1e-6) and len(denoiser.text_layout()) == 2
    assert found.pooled is not None and torch.allclose(found.pooled, expected[2], atol=1e-6)
    assert type(denoiser.pipeline()).__name__ == "StableDiffusion3Pipeline"


def test_a_t5_of_another_dtype_does_not_change_that_of_the_sequence() -> None:
    pipe = tiny_family("sd3")
    pipe.text_encoder.to(torch.bfloat16)
    pipe.text_encoder_2.to(torch.bfloat16)
    assert denoiser_of(pipe).conditioning(["cat"]).encoder_hidden_states.dtype == torch.bfloat16


def test_each_encoder_stands_where_the_sequence_has_it() -> None:
    found = denoiser_of(tiny_family("sd3")).text_layout()
    assert [(p.encoder, p.first, p.length, p.features) for p in found] == [
        ("text_encoder", 0, CLIP, (0, 16)),
        ("text_encoder_2", 0, CLIP, (16, 32)),
        ("text_encoder_3", CLIP, T5, (0, None)),
    ]


def test_noise_and_target_are_those_of_diffusers_training_example() -> None:
    """x_s = (1 - s) x_0 + s eps at the scheduler's shifted levels, towards eps - x_0."""
    pipe = tiny_family("sd3")
    denoiser, scheduler = denoiser_of(pipe), FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = denoiser.timesteps_at(torch.tensor([0, 500, 999]))
    assert torch.equal(t, scheduler.timesteps[[999, 499, 0]]) and denoiser.prediction_type == "flow"
    noisy = denoiser.add_noise(latents, noise, t)
    assert torch.allclose(noisy, scheduler.scale_noise(latents, t, noise), atol=1e-6)
    assert torch.equal(denoiser.target(latents, noise, t), noise - latents)
    with pytest.raises(ValueError, match=r"train\.snr_gamma: Min-SNR weights are derived for diffusion models"):
        denoiser.snr(t)


@pytest.mark.parametrize("resolution", [16, 32])
@pytest.mark.parametrize("shift", [{"shift": 3.0}, {"use_dynamic_shifting": True, "max_shift": 3.0}])
def test_steps_of_sampling_are_the_pipelines(shift: dict[str, Any], resolution: int) -> None:
    pipe = tiny_family("sd3")
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(**shift, base_image_seq_len=8, max_image_seq_len=100)
    denoiser = denoiser_of(pipe)
    scheduler = denoiser.sampler()
    denoiser.set_timesteps(scheduler, 2, resolution, torch.device("cpu"))
    first_call(pipe, ["cat"], height=resolution, width=resolution)
    assert torch.allclose(scheduler.timesteps, pipe.scheduler.timesteps) and len(scheduler.timesteps) == 2


def test_the_shift_by_resolution_is_diffusers_own() -> None:
    """With the scheduler's own ends of the line, and with the defaults where its config has none."""
    scheduler = FlowMatchEulerDiscreteScheduler(base_image_seq_len=64, max_image_seq_len=640, max_shift=2.0)
    assert dynamic_shift(scheduler, 300) == pytest.approx(calculate_shift(300, 64, 640, 0.5, 2.0))
    assert "base_shift" not in DDIMScheduler().config
    assert dynamic_shift(DDIMScheduler(), 300) == pytest.approx(calculate_shift(300))


def test_a_call_is_read_and_repeated() -> None:
    """The guided call of a picture that is not square: unconditional rows first."""
    pipe = tiny_family("sd3")
    denoiser = denoiser_of(pipe)
    args, kwargs, output = first_call(pipe, PROMPTS, height=16, width=24)
    noisy, timestep, given = denoiser.read_call(args, kwargs)
    assert noisy.shape == (4, 4, 8, 12) and timestep.tolist() == [1000.0] * 4
    assert torch.equal(given.encoder_hidden_states[:2], denoiser.unconditional(2).encoder_hidden_states)
    with torch.no_grad():
        assert torch.allclose(denoiser.predict(denoiser.model, noisy, timestep, given), output[0], atol=1e-6)
