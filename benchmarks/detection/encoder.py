"""A small image-text encoder (two towers, CLIP's loss): does an image still show what its prompt says?"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

__all__ = ["PairEncoder", "choices", "train_encoder"]

WIDTH = 128


class PairEncoder(nn.Module):
    """Images [B, 3, 32, 32] in [-1, 1] and captions, embedded [B, 128] with length 1.

    Captions are bags of words, so that a caption is known by the words that it shares with other captions. Words that
    were not in ``captions`` count as one unknown word.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        super().__init__()
        words = sorted({word for caption in captions for word in split(caption)})
        self.vocabulary = {word: number for number, word in enumerate(words, start=1)}
        self.words = nn.EmbeddingBag(len(words) + 1, WIDTH, mode="mean")
        self.text = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.image = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.GELU(), nn.GroupNorm(4, 32),
            nn.Conv2d(32, 64, 3, 2, 1), nn.GELU(), nn.GroupNorm(4, 64),
            nn.Conv2d(64, 128, 3, 2, 1), nn.GELU(), nn.GroupNorm(4, 128),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(128 * 16, WIDTH),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.tensor(2.6))

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeddings [B, 128]."""
        return F.normalize(self.image(images), dim=1)

    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        """Embeddings [B, 128]."""
        bags = [[self.vocabulary.get(word, 0) for word in split(caption)] or [0] for caption in captions]
        flat = torch.tensor([number for bag in bags for number in bag])
        starts = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
        pooled = self.words(flat, starts)
        return F.normalize(pooled + self.text(pooled), dim=1)


def split(caption: str) -> list[str]:
    """The words of a caption."""
    return re.findall(r"\w+", caption.lower())


def train_encoder(images: Tensor, captions: Sequence[str], *, epochs: int = 24, batch: int = 128) -> PairEncoder:
    """Fit on pairs [N, 3, 32, 32] in [-1, 1]; images are moved by up to two pixels and blurred at times, as what a
    small autoencoder decodes is."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    encoder = PairEncoder(captions).train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3, weight_decay=0.05)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in track(range(epochs), "training the image-text encoder"):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images) - batch + 1, batch):
            rows = order[start : start + batch]
            seen = encoder.embed_images(_moved(images[rows], generator))
            said = encoder.embed_texts([captions[int(row)] for row in rows])
            logits = encoder.scale.exp() * seen @ said.T
            labels = torch.arange(batch)
            loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return encoder.eval()


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    down, right = (int(torch.randint(0, 5, (1,), generator=generator)) for _ in range(2))
    side = images.shape[-1]
    moved = F.pad(images, (2, 2, 2, 2), value=1.0)[..., down : down + side, right : right + side]
    if torch.rand(1, generator=generator) < 0.5:
        moved = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), value=1.0), 3, 1)
    return moved + 0.05 * torch.randn(moved.shape, generator=generator)


@torch.no_grad()
def choices(encoder: PairEncoder, images: Tensor, candidates: Sequence[str]) -> Tensor:
    """The candidate that each image fits best, [N] int64."""
    return (encoder.embed_images(images) @ encoder.embed_texts(candidates).T).argmax(1)
