"""Prompts inside a chat template, as language models that encode them expect; and states of unequal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from memsieve.filtering.denoisers.conditioning import Conditioning

__all__ = ["around", "chats", "padded"]

_MARK: Final = "\u2016"
"""Stands for the prompt where the text around it is looked for: no template has it."""


def chats(tokenizer: Any, prompts: Sequence[str], **options: Any) -> list[str]:
    """Each prompt as a user's message in the tokenizer's template, with what begins the answer.

    Args:
        options: of the template, such as ``enable_thinking``.

    Raises:
        ValueError: the tokenizer has no template.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "model.path: the tokenizer has no chat template, which this family puts around prompts; its folder lacks "
            "chat_template.jinja (or the chat_template of tokenizer_config.json): copy or download it again"
        )
    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return [
        tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True, **options) for one in messages
    ]


def around(tokenizer: Any, **options: Any) -> tuple[str, str]:
    """The text before and after a prompt in the template."""
    before, _, after = chats(tokenizer, [_MARK], **options)[0].partition(_MARK)
    return before, after


def padded(rows: Sequence[torch.Tensor], length: int) -> Conditioning:
    """States [L_i, D] of unequal length as [B, L, D], zeros behind, with the mask [B, L] that tells them.

    Args:
        length: L, or the longest row where that is more.
    """
    length = max(length, *(len(row) for row in rows))
    states = rows[0].new_zeros(len(rows), length, rows[0].shape[-1])
    mask = torch.zeros(len(rows), length, dtype=torch.long, device=states.device)
    for place, row in enumerate(rows):
        states[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return Conditioning(states, attention_mask=mask)
