"""Does a drawing show what its caption says? A judge that shares no picture and no name with the base's training.

It is trained on drawings of other sets, of the things that the base is not trained on, and asked which of twenty
captions a picture has: of real pictures of the base's sets, whose things alone it has met, and of what a base draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.tiny_icons.encoder import SIDE, Encoder, train_encoder
from scripts.tiny_icons.pictures import Shown

__all__ = ["CANDIDATES", "Retrieved", "candidates_of", "plain_caption", "retrieved", "train_judge"]

CANDIDATES: Final = 20
EPOCHS: Final = 60
SEEDS: Final = (0, 1, 2)
"""Encoders whose scores are added up: one alone is right less often."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """How often the right caption was chosen among ``CANDIDATES``.

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


def candidates_of(rows: Sequence[Shown], seed: int = 0) -> list[list[int]]:
    """For each row its own number and those of 19 rows that show other things, each another one."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for i, row in enumerate(rows):
        concepts, picked = {row.concept}, [i]
        for j in torch.randperm(len(rows), generator=generator).tolist():
            if rows[j].concept not in concepts:
                concepts.add(rows[j].concept)
                picked.append(j)
            if len(picked) == CANDIDATES:
                break
        chosen.append(picked)
    return chosen


@torch.no_grad()
def retrieved(judge: Sequence[Encoder], images: Tensor, rows: Sequence[Shown], seed: int = 0) -> Retrieved:
    """Ask about ``images`` [N, 3, H, W] in [-1, 1], which show what ``rows`` say."""
    said = [plain_caption(row.caption) for row in rows]
    among, looked = torch.tensor(candidates_of(rows, seed)), small(images)
    shares = []
    for captions in (said, [caption.split(", ")[0] for caption in said]):
        scores = torch.zeros(len(rows), CANDIDATES)
        for encoder in judge:
            scores += (encoder.embed_images(looked)[:, None] * encoder.embed_texts(captions)[among]).sum(-1)
        shares.append(float((scores.argmax(1) == 0).float().mean()))
    return Retrieved(shares[0], shares[1], len(rows))


def small(images: Tensor) -> Tensor:
    """Pictures as the judge looks at them, [N, 3, 32, 32]."""
    return F.interpolate(images, size=(SIDE, SIDE), mode="area")
