"""Stable Diffusion XL: two CLIP encoders side by side, a pooled prompt, and what the network is told of the size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memsieve.filtering.denoisers.conditioning import Conditioning
from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from tests.filtering.denoisers.calls import calls_of, first_call
from tests.tiny_models import tiny_family

Copy = Callable[[str], Path]
PROMPTS = ["cat dog", "red hat on a mat"]
WIDE: dict[str, Any] = {"height": 16, "width": 32}


def test_prompts_are_encoded_as_the_pipeline_encodes_them() -> None:
    """Both encoders' last layer but one, the first one's features first; the pooled vector is the second one's."""
    pipe = tiny_family("sdxl")
    found = denoiser_of(pipe).conditioning(PROMPTS)
    with torch.no_grad():
        states, _, pooled, _ = pipe.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
    assert found.encoder_hidden_states.shape == (2, 16, 16 + 16) and found.pooled is not None
    assert torch.equal(found.encoder_hidden_states, states) and torch.equal(found.pooled, pooled)
    assert found.pooled.shape == (2, 16) and found.attention_mask is None and found.time_ids is None


def test_without_a_prompt_is_zeros_unless_the_pipeline_says_otherwise() -> None:
    pipe = tiny_family("sdxl")
    found = denoiser_of(pipe).conditioning(["", "cat"])
    assert found.pooled is not None and not found.encoder_hidden_states[0].any() and not found.pooled[0].any()
    assert found.encoder_hidden_states[1].any() and found.pooled[1].any()
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    found = denoiser_of(pipe).unconditional(1)
    with torch.no_grad():
        _, states, _, pooled = pipe.encode_prompt("cat", device="cpu")
    assert found.encoder_hidden_states.any() and torch.equal(found.encoder_hidden_states, states)
    assert found.pooled is not None and torch.equal(found.pooled, pooled)


def test_a_folder_that_says_nothing_of_empty_prompts_has_zeros(copied: Copy) -> None:
    folder = copied("sdxl")
    file = folder / "model_index.json"
    index = json.loads(file.read_text())
    del index["force_zeros_for_empty_prompt"]
    file.write_text(json.dumps(index))
    assert not open_denoiser(str(folder)).unconditional(1).encoder_hidden_states.any()


def test_what_the_pipeline_says_of_empty_prompts_is_kept() -> None:
    """In the pipeline that draws, and with it in what is exported."""
    pipe = tiny_family("sdxl")
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    assert denoiser_of(pipe).pipeline().config.force_zeros_for_empty_prompt is False


def test_the_network_is_told_the_size_as_the_pipeline_tells_it() -> None:
    """Height before width, no crop: of a picture that is not square."""
    pipe = tiny_family("sdxl")
    denoiser = denoiser_of(pipe)
    args, kwargs, output = first_call(pipe, PROMPTS, **WIDE)
    noisy, timestep, given = denoiser.read_call(args, kwargs)
    assert given.time_ids is not None and given.time_ids.tolist() == [[16, 32, 0, 0, 16, 32]] * 4
    untold = Conditioning(given.encoder_hidden_states, given.pooled)
    with calls_of(denoiser.model) as calls, torch.no_grad():
        found = denoiser.predict(denoiser.model, noisy, timestep.expand(4), untold)
    told = calls[0][1]["added_cond_kwargs"]
    assert torch.equal(told["time_ids"], given.time_ids) and told["time_ids"].dtype == noisy.dtype
    assert torch.allclose(found, output[0], atol=1e-6)


def test_sizes_that_are_given_are_what_the_network_is_told() -> None:
    denoiser = denoiser_of(tiny_family("sdxl"))
    plain = denoiser.conditioning(["cat"])
    other = Conditioning(plain.encoder_hidden_states, plain.pooled, time_ids=torch.tensor([[64.0, 64, 0, 9, 16, 16]]))
    noisy, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    with torch.no_grad():
        one, two = (denoiser.predict(denoiser.model, noisy, t, states) for states in (plain, other))
    assert (one - two).abs().max() > 1e-3


def test_a_call_names_the_size_of_the_latents_it_starts_from() -> None:
    denoiser = denoiser_of(tiny_family("sdxl"))
    cond, uncond = denoiser.conditioning(["cat"]), denoiser.unconditional(1)
    given = denoiser.call_arguments(cond, uncond, 3.0, torch.zeros(1, 4, 8, 16))
    assert given["original_size"] == given["target_size"] == (16, 32)
    assert given["negative_pooled_prompt_embeds"] is uncond.pooled and given["guidance_scale"] == 3.0
    assert not {"original_size", "target_size", "latents"} & denoiser.call_arguments(cond, uncond, 3.0).keys()


def test_two_encoders_share_their_positions() -> None:
    denoiser = denoiser_of(tiny_family("sdxl"))
    first, second = denoiser.text_layout()
    assert [(p.encoder, p.first, p.length, p.features) for p in (first, second)] == [
        ("text_encoder", 0, 16, (0, 16)),
        ("text_encoder_2", 0, 16, (16, None)),
    ]
    assert first.tokenizer is denoiser.tokenizer and second.tokenizer is denoiser.tokenizer_2


def test_the_pipeline_puts_no_watermark_into_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the package for it happens to be installed."""
    module = "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl"
    monkeypatch.setattr(f"{module}.is_invisible_watermark_available", lambda: True)
    assert denoiser_of(tiny_family("sdxl")).pipeline().watermark is None
