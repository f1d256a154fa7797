"""Chat templates around prompts, and rows of unequal length."""

from __future__ import annotations

import pytest
import torch

from memsieve.filtering.denoisers.chat import around, chats, padded
from memsieve.filtering.denoisers.registry import denoiser_of
from tests.tiny_models import tiny_family


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    pipe = tiny_family("z_image")
    pipe.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        denoiser_of(pipe).conditioning(["cat"])


def test_a_template_stands_around_a_prompt() -> None:
    tokenizer = tiny_family("flux_2_klein").tokenizer
    before, after = around(tokenizer, enable_thinking=False)
    assert before + "a cat" + after == chats(tokenizer, ["a cat"], enable_thinking=False)[0]
    assert before.startswith("<|im_start|>user") and after.endswith("</think>\n\n")


def test_rows_of_unequal_length_are_padded_behind_and_the_mask_says_how_far() -> None:
    rows = [torch.ones(2, 3), torch.ones(5, 3)]
    found = padded(rows, 4)
    assert found.encoder_hidden_states.shape == (2, 5, 3) and found.attention_mask is not None
    assert found.attention_mask.tolist() == [[1, 1, 0, 0, 0], [1] * 5]
    assert float(found.encoder_hidden_states.sum()) == 7 * 3 and padded(rows[:1], 4).encoder_hidden_states.shape[1] == 4
