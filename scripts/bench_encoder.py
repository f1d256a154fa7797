"""A small image-text encoder (two towers, CLIP's loss): does an image still show what its prompt says?"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

__all__ = ["PairEncoder", "choices", "train_encoder"]

WIDTH = 192
BUCKETS = 8192


class PairEncoder(nn.Module):
    """Images [B, 3, 32, 32] in [-1, 1] and captions, embedded [B, 192] with length 1.

    A caption is the bag of its words and of the words' pieces of 3 to 5 letters (fastText, Bojanowski et al., 2017), so
    that a word which no training caption holds is known by the words that it is like.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(BUCKETS, WIDTH, mode="sum")
        self.text = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * WIDTH, WIDTH))
        self.image = nn.Sequential(
            nn.Conv2d(3, 48, 3, 2, 1), nn.GELU(), nn.GroupNorm(4, 48),
            nn.Conv2d(48, 96, 3, 2, 1), nn.GELU(), nn.GroupNorm(4, 96),
            nn.Conv2d(96, 192, 3, 2, 1), nn.GELU(), nn.GroupNorm(4, 192),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(192 * 16, WIDTH),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.tensor(2.6))

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeddings [B, 192]."""
        return F.normalize(self.image(images), dim=1)

    def embed_texts(self, captions: Sequence[str], drop: float = 0.0) -> Tensor:
        """Embeddings [B, 192]; while training a share ``drop`` of the pieces is left out."""
        bags = [pieces(caption) for caption in captions]
        flat = torch.tensor([number for bag in bags for number in bag])
        starts = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
        kept = (torch.rand(len(flat)) >= drop).float()
        pooled = self.words(flat, starts, per_sample_weights=kept)
        pooled = pooled / torch.tensor([float(len(bag)) for bag in bags])[:, None]
        return F.normalize(pooled + self.text(pooled), dim=1)


@cache
def pieces(caption: str) -> list[int]:
    """Numbers of a caption's words, each twice, and of the pieces of its words."""
    found = []
    for word in re.findall(r"\w+", caption.lower()):
        marked = f"<{word}>"
        found += [marked, marked]
        found += [marked[at : at + n] for n in (3, 4, 5) for at in range(len(marked) - n + 1)]
    return [zlib.crc32(piece.encode()) % BUCKETS for piece in found] or [0]


def train_encoder(
    images: Tensor, decoded: Tensor, captions: Sequence[str], *, epochs: int = 40, batch: int = 128
) -> PairEncoder:
    """Fit on pairs [N, 3, 32, 32] in [-1, 1], the images themselves and as the autoencoder ``decoded`` them by turns;
    they are moved by up to three pixels, scaled, and blurred at times."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    encoder = PairEncoder().train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3, weight_decay=0.05)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in track(range(epochs), "training the image-text encoder"):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images) - batch + 1, batch):
            rows = order[start : start + batch]
            source = decoded if torch.rand(1, generator=generator) < 0.5 else images
            seen = encoder.embed_images(_moved(source[rows], generator))
            said = encoder.embed_texts([captions[int(row)] for row in rows], drop=0.2)
            logits = encoder.scale.exp() * seen @ said.T
            labels = torch.arange(batch)
            loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return encoder.eval()


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    side = images.shape[-1]
    scale = 0.85 + 0.3 * float(torch.rand(1, generator=generator))
    shift = (torch.rand(2, generator=generator) * 2 - 1) * 6 / side
    theta = torch.tensor([[1 / scale, 0.0, float(shift[0])], [0.0, 1 / scale, float(shift[1])]])
    grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    moved = F.grid_sample(images - 1, grid, align_corners=False) + 1  # what comes in from outside is white
    if torch.rand(1, generator=generator) < 0.5:
        moved = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), value=1.0), 3, 1)
    return moved + 0.05 * torch.randn(moved.shape, generator=generator)


@torch.no_grad()
def choices(encoder: PairEncoder, images: Tensor, candidates: Sequence[str]) -> Tensor:
    """The candidate that each image fits best, [N] int64."""
    return (encoder.embed_images(images) @ encoder.embed_texts(candidates).T).argmax(1)
