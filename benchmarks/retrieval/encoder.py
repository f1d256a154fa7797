"""The judge's two towers (CLIP's loss): residual convolutions, and bags of words and their pieces, so that a word that
no training caption holds is known by the words that it is like."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Final

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

__all__ = ["SIDE", "Encoder", "train_encoder"]

SIDE: Final = 32
"""Of the pictures that are looked at: it is asked what is shown, not how sharply."""
_WIDTH, _BUCKETS = 128, 4096
_WHOLE, _NAME = 0.5, 0.35
"""Shares of the visits by the whole caption, by the name alone, and (the rest) by the colours alone."""
_SMOOTHING: Final = 0.05
"""Some of a batch show the same thing in another style, and are not wrong."""


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.GroupNorm(8, channels), nn.GELU(), nn.Conv2d(channels, channels, 3, 1, 1),
            nn.GroupNorm(8, channels), nn.GELU(), nn.Conv2d(channels, channels, 3, 1, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Images [B, 3, 32, 32] in [-1, 1] and captions, embedded [B, 128] with length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(_BUCKETS, _WIDTH, mode="mean")
        self.text = nn.Sequential(nn.Linear(_WIDTH, 2 * _WIDTH), nn.GELU(), nn.Linear(2 * _WIDTH, _WIDTH))
        self.image = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), _Residual(32), nn.Conv2d(32, 64, 3, 2, 1), _Residual(64),
            nn.Conv2d(64, 128, 3, 2, 1), _Residual(128), nn.GroupNorm(8, 128), nn.GELU(),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 16, _WIDTH),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.tensor(2.6))

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeddings [B, 128]."""
        return F.normalize(self.image(images), dim=1)

    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        """Embeddings [B, 128]."""
        bags = [_pieces(caption) for caption in captions]
        flat = torch.tensor([number for bag in bags for number in bag])
        starts = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
        pooled = self.words(flat, starts)
        return F.normalize(pooled + self.text(pooled), dim=1)


def train_encoder(images: Tensor, captions: Sequence[str], *, epochs: int, seed: int = 0, batch: int = 128) -> Encoder:
    """Fit on pairs [N, 3, 32, 32] in [-1, 1] and captions "name, colours"; pictures are moved, made larger or smaller,
    and blurred at times, as what a small autoencoder decodes is."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    encoder = Encoder().train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3, weight_decay=0.05)
    batch = min(batch, len(images))
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in track(range(epochs), f"training the judge, seed {seed}"):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images) - batch + 1, batch):
            rows = order[start : start + batch]
            seen = encoder.embed_images(_moved(images[rows], generator))
            said = encoder.embed_texts([_said(captions[row], generator) for row in rows.tolist()])
            logits = encoder.scale.exp().clamp(max=50.0) * seen @ said.T
            labels = torch.arange(batch)
            loss = sum(F.cross_entropy(way, labels, label_smoothing=_SMOOTHING) for way in (logits, logits.T))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[union-attr, no-untyped-call]
            optimizer.step()
            schedule.step()
    return encoder.eval()


@cache
def _pieces(caption: str) -> tuple[int, ...]:
    """Buckets of the words, thrice each, and of their pieces of three and four letters."""
    found: list[int] = []
    for word in re.findall(r"\w+", caption.lower()):
        marked = f"<{word}>"
        found += [zlib.crc32(marked.encode()) % _BUCKETS] * 3
        found += [zlib.crc32(marked[i : i + n].encode()) % _BUCKETS for n in (3, 4) for i in range(len(marked) - n + 1)]
    return tuple(found) or (0,)


def _said(caption: str, generator: torch.Generator) -> str:
    """The caption, its name or its colours, or one of them would say everything."""
    name, _, colours = caption.partition(", ")
    share = float(torch.rand(1, generator=generator))
    return caption if share < _WHOLE or not colours else name if share < _WHOLE + _NAME else colours


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    down, right = torch.randint(0, 7, (2,), generator=generator).tolist()
    images = F.pad(images, (3, 3, 3, 3), value=1.0)[..., down : down + SIDE, right : right + SIDE]
    if torch.rand(1, generator=generator) < 0.5:
        images = _scaled(images, 0.8 + 0.4 * float(torch.rand(1, generator=generator)))
    if torch.rand(1, generator=generator) < 0.5:
        images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), value=1.0), 3, 1)
    return images + 0.05 * torch.randn(images.shape, generator=generator)


def _scaled(images: Tensor, by: float) -> Tensor:
    """Larger or smaller about the middle, white around."""
    made = F.interpolate(images, scale_factor=by, mode="bilinear", antialias=True)
    side = made.shape[-1]
    if side < SIDE:
        first, last = (SIDE - side) // 2, SIDE - side - (SIDE - side) // 2
        return F.pad(made, (first, last, first, last), value=1.0)
    start = (side - SIDE) // 2
    return made[..., start : start + SIDE, start : start + SIDE]
