"""What the families have in common whose text encoders are language models: prompts, positions, guidance."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.inference.explain.words import token_table
from tests.guided_calls import branches_of, guidance, network_of, prediction_of
from tests.tiny_models import GUIDED, RECENT, side_of, tiny_family

PROMPTS = ["cat dog", "red hat on a mat"]
FAMILIES = [name for name in RECENT if name in GUIDED]


def pipelines_own(name: str, pipe: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """States [L_i, D] of each prompt and of the empty one, without padding where the network is told what that is."""
    if name == "z_image":
        states, empty = pipe.encode_prompt(list(PROMPTS), "cpu")
        return states, empty
    if name == "qwen_image":
        found = []
        for prompts in (PROMPTS, [""] * 2):
            states, mask = pipe.encode_prompt(prompts, "cpu", max_sequence_length=512)
            kept = [len(states[0])] * 2 if mask is None else mask.sum(1).tolist()
            found.append([row[:length] for row, length in zip(states, kept, strict=True)])
        return found[0], found[1]
    if name == "flux_2_klein":
        return list(pipe.encode_prompt(PROMPTS, "cpu")[0]), list(pipe.encode_prompt(["", ""], "cpu")[0])
    options = {}
    if name == "sana":
        options = {"complex_human_instruction": inspect.signature(type(pipe).__call__)
                   .parameters["complex_human_instruction"].default}  # fmt: skip
    states, mask, empty, no_mask = pipe.encode_prompt(PROMPTS, device="cpu", **options)
    pairs = ((states, mask), (empty, no_mask))
    first, second = ([row[kept.bool()] for row, kept in zip(*pair, strict=True)] for pair in pairs)
    return first, second


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_and_the_empty_one_are_encoded_as_the_pipeline_encodes_them(name: str) -> None:
    pipe = tiny_family(name)
    denoiser = denoiser_of(pipe)
    with torch.no_grad():
        expected = pipelines_own(name, pipe)
    for found, rows in zip((denoiser.conditioning(PROMPTS), denoiser.unconditional(2)), expected, strict=True):
        masks = [torch.ones(len(row)) for row in rows] if found.attention_mask is None else found.attention_mask
        for states, mask, row in zip(found.encoder_hidden_states, masks, rows, strict=True):
            assert states[mask.bool()].shape == row.shape and torch.allclose(states[mask.bool()], row, atol=1e-5)
        assert found.pooled is None
    assert not torch.equal(found.encoder_hidden_states[0], denoiser.conditioning(PROMPTS).encoder_hidden_states[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_word_stands_where_the_layout_says(name: str) -> None:
    """Language models look back alone: what is before a word that changes stays as it was, and the word does not."""
    denoiser = denoiser_of(tiny_family(name))
    (part,) = denoiser.text_layout()
    one, two = denoiser.conditioning(["cat dog", "cat cat"]).encoder_hidden_states
    table = token_table(part, "cat dog")
    assert table.words == ["cat", "dog"] and len(table.tokens) == part.length == len(one)
    (place,) = [token.position for token in table.tokens if token.word == 1]
    first = part.first + place
    # Up to rounding: positions are computed together.
    assert torch.allclose(one[:first], two[:first], atol=1e-5) and not torch.allclose(one[first], two[first], atol=1e-2)
    mask = denoiser.conditioning(["cat dog"]).attention_mask
    if mask is not None:
        text = [token.position for token in table.tokens if token.kind != "padding"]
        assert mask[0].nonzero().flatten().tolist() == text


@pytest.mark.parametrize("name", FAMILIES)
def test_the_guided_prediction_is_the_one_that_the_pipeline_samples_with(name: str) -> None:
    """Of its first step, from both branches as its network gave them."""
    pipe, side = tiny_family(name), side_of(name)
    denoiser = denoiser_of(pipe)
    outputs: list[torch.Tensor] = []
    sampled: list[torch.Tensor] = []
    step = pipe.scheduler.step

    def note(prediction: torch.Tensor, *args: Any, **options: Any) -> Any:
        sampled.append(prediction)
        return step(prediction, *args, **options)

    pipe.scheduler.step = note
    network_of(pipe).register_forward_hook(lambda module, args, output: outputs.append(prediction_of(output)))
    pipe(prompt="cat", num_inference_steps=2, height=side, width=side, output_type="latent", **guidance(pipe, 3.0))
    sign = -1 if name in ("z_image", "lumina_2") else 1
    shape = (1, *denoiser.latent_shape(side))

    def unpacked(rows: torch.Tensor) -> torch.Tensor:
        return denoiser._unpack(rows, *shape[2:]) if rows.ndim == 3 else rows.reshape(shape)  # type: ignore[no-any-return]

    with_, without = (sign * unpacked(rows) for rows in branches_of(pipe, outputs)[0])
    found = denoiser.guided(with_, without, 3.0)
    assert torch.allclose(found, unpacked(sampled[0]), atol=1e-5)
    plain = without + 3.0 * (with_ - without)
    assert torch.allclose(found, plain, atol=1e-5) == (name not in ("qwen_image", "lumina_2"))
