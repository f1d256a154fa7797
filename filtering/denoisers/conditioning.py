"""What a network is told of its prompts: one small value for every model family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["Conditioning", "TextPart"]


@dataclass(frozen=True, slots=True)
class Conditioning:
    """The encoded prompts of a batch, first axis B everywhere.

    Attributes:
        encoder_hidden_states: [B, L, D], the sequence that the network attends to.
        pooled: [B, P], one vector a prompt, where the family has one (SDXL, SD3, Flux).
        attention_mask: [B, L], 1 where a position holds text, where the network reads one (PixArt).
        time_ids: [B, 6], original size, corner of the crop and target size (height before width), where the network is
            told them and they are not the picture's own size (SDXL).
    """

    encoder_hidden_states: Tensor
    pooled: Tensor | None = None
    attention_mask: Tensor | None = None
    time_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.encoder_hidden_states)

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditioning:
        """``function`` applied to every tensor there is."""
        return Conditioning(
            function(self.encoder_hidden_states),
            None if self.pooled is None else function(self.pooled),
            None if self.attention_mask is None else function(self.attention_mask),
            None if self.time_ids is None else function(self.time_ids),
        )

    def rows(self, index: Tensor | slice) -> Conditioning:
        """The prompts ``index``: a slice, or row numbers [N] on the tensors' device."""
        return self.map(lambda tensor: tensor[index])

    def expand(self, count: int) -> Conditioning:
        """One prompt, ``count`` times, without copying."""
        return self.map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """On ``device``, embeddings in ``dtype``; a mask keeps its own."""
        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))

    def where(self, rows: Sequence[bool], other: Conditioning) -> Conditioning:
        """``other``'s one prompt in place of those ``rows`` [B] that are True."""
        chosen = torch.tensor(list(rows), device=self.encoder_hidden_states.device)
        values = {
            name: torch.where(chosen.view(-1, *([1] * (mine.ndim - 1))), theirs.to(mine), mine)
            for name, mine, theirs in _pairs(self, other)
        }
        return replace(self, **values)

    @property
    def embeddings(self) -> dict[str, Tensor]:
        """The tensors that gradients are taken of, by name."""
        found = {"encoder_hidden_states": self.encoder_hidden_states}
        return found if self.pooled is None else {**found, "pooled": self.pooled}

    def with_embeddings(self, values: dict[str, Tensor]) -> Conditioning:
        """The same with other tensors in place of those named."""
        return replace(self, **values)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Prompts of several conditionings of one family, in order."""
        first = parts[0]
        values = {name: torch.cat([getattr(part, name) for part in parts]) for name, _, _ in _pairs(first, first)}
        return replace(first, **values)


def _pairs(first: Conditioning, second: Conditioning) -> list[tuple[str, Tensor, Tensor]]:
    """(name, tensor, tensor) of what both hold."""
    names = ("encoder_hidden_states", "pooled", "attention_mask", "time_ids")
    found = [(name, getattr(first, name), getattr(second, name)) for name in names]
    return [(name, mine, theirs) for name, mine, theirs in found if mine is not None]


@dataclass(frozen=True, slots=True)
class TextPart:
    """Where one text encoder stands in encoder_hidden_states.

    Attributes:
        encoder: its name in the pipeline.
        tokenizer: its tokenizer.
        first: its first position, [first, first + length) being its own.
        length: positions, the tokens of a prompt padded to so many.
        features: [start, stop) of D, stop None for all; encoders joined feature by feature share their positions.
        prepared: what the family's pipeline does to a prompt before it is split into tokens.
        before: text that the pipeline puts before the prompt (a chat template).
        dropped: of the positions of ``before``, those that the pipeline leaves out of the sequence.
        after: text that the pipeline puts after the prompt.
    """

    encoder: str
    tokenizer: Any
    first: int
    length: int
    features: tuple[int, int | None] = (0, None)
    prepared: Callable[[str], str] = str
    before: str = ""
    dropped: int = 0
    after: str = ""

    @property
    def has_start(self) -> bool:
        """Whether its first position is a start token, which holds no word (CLIP; T5 has none)."""
        bos = getattr(self.tokenizer, "bos_token_id", None)
        return bos is not None and self.tokenizer("a").input_ids[0] == bos
