"""Does a drawing show what its caption says? A judge that shares no picture and no name with the base's training.

It is trained on drawings of other sets, of the things that the base is not trained on, and asked which of twenty
captions a picture has: of real pictures of the base's sets, whose things alone it has met, and of what a base draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from benchmarks.retrieval.choice import candidates_of, chosen, small
from benchmarks.retrieval.encoder import Encoder, train_encoder
from scripts.tiny_icons.pictures import Shown

__all__ = ["Retrieved", "plain_caption", "retrieved", "train_judge"]

EPOCHS: Final = 60
SEEDS: Final = (0, 1, 2)
"""Encoders whose scores are added up: one alone is right less often."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """How often the right caption was chosen among twenty.

    ``whole``: of captions with their colours. ``names``: of names alone. ``pictures``: how many were asked about.
    """

    whole: float
    names: float
    pictures: int


def plain_caption(caption: str) -> str:
    """A caption without its style, which the judge has never met."""
    return ", ".join(caption.split(", ")[:-1])


def train_judge(pictures: Sequence[Shown], epochs: int = EPOCHS, seeds: Sequence[int] = SEEDS) -> list[Encoder]:
    """Fit the encoders; some minutes each on a core."""
    said = [plain_caption(row.caption) for row in pictures]
    images = small(torch.stack([row.pixels for row in pictures]).float() / 127.5 - 1)
    return [train_encoder(images, said, epochs=epochs, seed=seed) for seed in seeds]


def retrieved(judge: Sequence[Encoder], images: Tensor, rows: Sequence[Shown], seed: int = 0) -> Retrieved:
    """Ask about ``images`` [N, 3, H, W] in [-1, 1], which show what ``rows`` say."""
    said = [plain_caption(row.caption) for row in rows]
    among = candidates_of([row.concept for row in rows], seed)
    names = [caption.split(", ")[0] for caption in said]
    whole, name = (float(chosen(judge, images, captions, among).float().mean()) for captions in (said, names))
    return Retrieved(whole, name, len(rows))
