"""PixArt-Sigma: one T5 whose mask the network reads, captions in small letters, and a variance that is left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel

from memsieve.filtering.denoisers.registry import denoiser_of
from tests.filtering.denoisers.calls import calls_of, first_call
from tests.tiny_models import tiny_family

PROMPTS = [" Cat DOG ", "red hat on a mat"]
T5 = 300
"""Positions."""


def test_prompts_are_encoded_as_the_pipeline_encodes_them() -> None:
    """In small letters, without spaces around them; T5 and the network see which positions hold text."""
    pipe = tiny_family("pixart")
    denoiser = denoiser_of(pipe)
    found = denoiser.conditioning(PROMPTS)
    with torch.no_grad():
        states, mask, _, _ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False, device="cpu")
    assert found.encoder_hidden_states.shape == (2, T5, 32) and found.attention_mask is not None
    assert torch.equal(found.encoder_hidden_states, states) and torch.equal(found.attention_mask, mask)
    assert found.attention_mask.dtype == torch.long and 0 < found.attention_mask[0].sum() < T5
    assert found.pooled is None
    small = denoiser.conditioning(["cat dog"])
    assert torch.equal(small.encoder_hidden_states, found.encoder_hidden_states[:1])


def test_unconditional_is_the_empty_caption_with_its_mask() -> None:
    """A row whose caption is dropped has no more than the end of its text."""
    pipe = tiny_family("pixart")
    found = denoiser_of(pipe).conditioning(["cat", ""])
    with torch.no_grad():
        _, _, states, mask = pipe.encode_prompt("cat", device="cpu")
    assert torch.equal(found.encoder_hidden_states[1:], states) and found.attention_mask is not None
    assert torch.equal(found.attention_mask[1:], mask) and int(mask.sum()) == 1


def test_the_encoder_stands_at_all_positions_and_reads_prepared_words() -> None:
    (part,) = denoiser_of(tiny_family("pixart")).text_layout()
    assert (part.encoder, part.first, part.length, part.features) == ("text_encoder", 0, T5, (0, None))
    assert part.prepared(" Cat DOG ") == "cat dog" and not part.has_start


def test_the_network_is_told_the_mask_and_its_variance_is_left_out() -> None:
    pipe = tiny_family("pixart")
    denoiser = denoiser_of(pipe)
    args, kwargs, output = first_call(pipe, PROMPTS, height=16, width=24, use_resolution_binning=False)
    noisy, timestep, given = denoiser.read_call(args, kwargs)
    assert noisy.shape == (4, 4, 8, 12) and output[0].shape == (4, 8, 8, 12) and given.attention_mask is not None
    with calls_of(denoiser.model) as calls, torch.no_grad():
        found = denoiser.predict(denoiser.model, noisy, timestep, given)
    assert torch.equal(calls[0][1]["encoder_attention_mask"], kwargs["encoder_attention_mask"])
    assert found.shape == noisy.shape and torch.allclose(found, output[0][:, :4], atol=1e-6)
    blind = given.map(lambda tensor: tensor if tensor.is_floating_point() else torch.ones_like(tensor))
    with torch.no_grad():
        assert not torch.allclose(denoiser.predict(denoiser.model, noisy, timestep, blind), found, atol=1e-4)


def test_a_network_without_a_variance_is_taken_whole() -> None:
    pipe = tiny_family("pixart")
    plain = {name: value for name, value in pipe.transformer.config.items() if name != "_use_default_values"}
    pipe.register_modules(transformer=PixArtTransformer2DModel.from_config(plain | {"out_channels": 4}).eval())
    denoiser = denoiser_of(pipe)
    noisy, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    with calls_of(denoiser.model) as calls, torch.no_grad():
        found = denoiser.predict(denoiser.model, noisy, t, denoiser.conditioning(["cat"]))
    assert torch.equal(found, calls[0][2][0])


def test_a_call_has_masks_and_the_size_as_asked_for() -> None:
    """The pipeline would draw the nearest size that PixArt was trained on, and refuse its own empty negative prompt."""
    denoiser = denoiser_of(tiny_family("pixart"))
    cond, uncond = denoiser.conditioning(["cat"]), denoiser.unconditional(1)
    given = denoiser.call_arguments(cond, uncond, 3.0)
    assert given["prompt_attention_mask"] is cond.attention_mask and given["negative_prompt"] is None
    assert given["negative_prompt_attention_mask"] is uncond.attention_mask
    options: dict[str, Any] = {"num_inference_steps": 1, "height": 24, "width": 40, "output_type": "pt"}
    pipe = denoiser.pipeline()
    assert pipe(**given, **options).images.shape == (1, 3, 24, 40)
    alone = denoiser.call_arguments(cond, None, 3.0)
    assert "negative_prompt_attention_mask" not in alone and alone["guidance_scale"] == 1.0


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_schedulers_prediction_type_counts(kind: str) -> None:
    assert denoiser_of(tiny_family("pixart", prediction_type=kind)).prediction_type == kind
