"""The question that encoders are asked: which of twenty captions has this picture?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.retrieval.encoder import SIDE, Encoder

__all__ = ["CANDIDATES", "candidates_of", "chosen", "small"]

CANDIDATES: Final = 20


def candidates_of(things: Sequence[str], seed: int = 0) -> list[list[int]]:
    """For each row its own number first, and those of 19 rows that show other things, each another one.

    Args:
        things: what each row shows, [N]; several rows may show the same thing.
        seed: of the choice.

    Raises:
        ValueError: there are fewer than 20 things.
    """
    if len(set(things)) < CANDIDATES:
        raise ValueError(f"{CANDIDATES} captions of as many things are compared, and there are {len(set(things))}")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i, thing in enumerate(things):
        shown, picked = {thing}, [i]
        for j in torch.randperm(len(things), generator=generator).tolist():
            if things[j] not in shown:
                shown.add(things[j])
                picked.append(j)
            if len(picked) == CANDIDATES:
                break
        found.append(picked)
    return found


@torch.no_grad()
def chosen(encoders: Sequence[Encoder], images: Tensor, captions: Sequence[str], among: Sequence[list[int]]) -> Tensor:
    """Whether the first of its candidates fits each picture best, bool [N].

    Args:
        encoders: their scores are added up: one alone is right less often.
        images: [N, 3, H, W] in [-1, 1].
        captions: those that candidates are numbers of.
        among: [N, 20], the right one first.
    """
    numbers, looked = torch.tensor(among), small(images)
    scores = torch.zeros(numbers.shape)
    for encoder in encoders:
        scores += (encoder.embed_images(looked)[:, None] * encoder.embed_texts(captions)[numbers]).sum(-1)
    return scores.argmax(1) == 0


def small(images: Tensor) -> Tensor:
    """Pictures as encoders look at them, [N, 3, 32, 32]."""
    return F.interpolate(images, size=(SIDE, SIDE), mode="area")
