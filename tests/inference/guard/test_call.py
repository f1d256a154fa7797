"""What a guarded call asks for: guidance, and arguments that cannot be measured."""

from __future__ import annotations

import pytest
import torch

from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.inference.guard.branches import BranchReader
from tests.inference.guard.calls import CALL, first_step, guard, guidance, seeded
from tests.tiny_models import tiny_family


def test_flux_without_a_negative_prompt_is_refused_and_with_an_empty_one_measured() -> None:
    """true_cfg_scale alone does not guide: pairs of such steps are no branches."""
    pipe = tiny_family("flux_guided")
    guarded = guard(pipe)
    call = {**CALL, "true_cfg_scale": 3.0, "generator": seeded()}
    with pytest.raises(ValueError, match=r'negative_prompt = None: must be a text, "" for none.*does not guide'):
        guarded("cat", negative_prompt=None, **call)
    embedding = denoiser_of(pipe).unconditional(1).encoder_hidden_states
    with pytest.raises(ValueError, match="negative_pooled_prompt_embeds: must be given together"):
        guarded("cat", negative_prompt_embeds=embedding, **call)
    found = []
    for words in ({"negative_prompt": ""}, {}):  # as the message says; and left out, which is the same
        guarded("cat", **words, **{**call, "generator": seeded()})
        found.append(guarded.report.magnitudes)
    assert found[0] == found[1] and len(found[0]) == CALL["num_inference_steps"]
    run = lambda: pipe("cat", negative_prompt="", **{**call, "generator": seeded()})  # noqa: E731
    assert found[0][0] == pytest.approx(first_step(pipe, run, 5), rel=1e-5)
    assert not pipe.transformer._forward_hooks


def test_what_cannot_be_measured_is_refused_with_a_way_out() -> None:
    pipe = tiny_family("sd")
    call = {**CALL, **guidance(pipe)}
    with pytest.raises(ValueError, match="ip_adapter_image_embeds: must be left out; what a picture adds"):
        guard(pipe)("cat", ip_adapter_image_embeds=[torch.zeros(2, 1, 4)], **call)
    with pytest.raises(ValueError, match=r'cross_attention_kwargs: must be left out.*pipe\.set_adapters\("NAME"'):
        guard(pipe)("cat", cross_attention_kwargs={"scale": 0.5}, **call)
    xl = tiny_family("sdxl")
    with pytest.raises(ValueError, match=r"clip_skip = 1: ordinary prompts.*threshold=\.\.\."):
        guard(xl, threshold=None, false_positive_rate=0.5)("cat", clip_skip=1, **call)
    guard(xl, threshold=1e9)("cat", clip_skip=1, **call)  # what the message says
    with pytest.raises(ValueError, match="max_sequence_length = 100: ordinary prompts"):
        guard(tiny_family("sd3"), threshold=None, false_positive_rate=0.5)("cat", max_sequence_length=100, **call)
    guard(tiny_family("sd3"), threshold=None, false_positive_rate=0.5)("cat", max_sequence_length=256, **call)
    reader = BranchReader(denoiser_of(pipe), 3)
    with pytest.raises(ValueError, match=r"called its network with 4 rows for 3 images.*one row an image"):
        reader.read((torch.zeros(4, 4, 8, 8), 1, torch.zeros(4, 16, 16)), {}, (torch.zeros(4, 4, 8, 8),))


def test_a_lora_is_weighted_as_the_refusal_says() -> None:
    """Its weight set before the call is part of the model, in measuring as in drawing."""
    from peft import LoraConfig

    pipe = tiny_family("sd")
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=4, target_modules=["to_k", "to_v"], init_lora_weights=False), "NAME")
    found = []
    for weight in (0.0, 2.0):
        pipe.set_adapters("NAME", weight)
        guarded = guard(pipe)
        guarded("cat", generator=seeded(), **CALL, **guidance(pipe))
        found.append(guarded.report.magnitudes[0][0])
    assert abs(found[1] - found[0]) > 1e-3
