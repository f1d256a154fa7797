"""Planted prompts drawn in every way, from the same noise: what copies, what fits, and what an attack brings back."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.detection.alignment import Alignment
from benchmarks.detection.data import Bench
from benchmarks.mitigation.ways import WAYS, Asked, Start
from memsieve.filtering.denoisers.base import Conditioning
from memsieve.inference.copies.attack import AttackSettings, Target, attack_embedding
from memsieve.inference.copies.probe import shard_images
from memsieve.inference.step import Against

__all__ = ["Study"]


class Study:
    """One model, opened with its base.

    Args:
        bench: of the model; its ``planted`` pairs are drawn.
        aligned: whether an image still shows what its prompt says.
        asked: how images are drawn.
        attack: how an embedding is searched for each pair; its ``images`` are drawn in every way.
    """

    def __init__(self, bench: Bench, aligned: Alignment, asked: Asked, attack: AttackSettings) -> None:
        self.bench, self.aligned, self.asked, self.attack = bench, aligned, asked, attack
        self.pixels = dict(shard_images(bench.data / "train"))
        self.attacked = cache(self._attacked)

    def measured(self, way: str) -> dict[str, Any]:
        """By prompt: the share of images that copies, whose nearest training image is the own one, and how well they
        fit; ``attacked`` the first two from embeddings that were searched for, None where the way has none to work on.
        """
        plain = self._drawn(way, self._starts())
        assert plain is not None
        captions = [pair.caption for pair in self.bench.planted for _ in range(self.attack.images)]
        fits = self.aligned(plain, captions)
        searched = self._drawn(way, self.attacked())
        return {
            **self._judged(plain),
            "alignment": fits.reshape(-1, self.attack.images).mean(1).tolist(),
            "attacked": None if searched is None else self._judged(searched),
        }

    def _judged(self, images: Tensor) -> dict[str, list[float]]:
        groups = [pair.group for pair in self.bench.planted for _ in range(self.attack.images)]
        verdicts = self.bench.judge.judge(images, groups)
        by_prompt = {
            "copies": [verdict.is_copy for verdict in verdicts], "own": [verdict.nearest_is_own for verdict in verdicts]
        }  # fmt: skip
        return {name: np.reshape(part, (-1, self.attack.images)).mean(1).tolist() for name, part in by_prompt.items()}

    def _drawn(self, way: str, starts: list[Start]) -> Tensor | None:
        drawn = [WAYS[way](self.bench.opened, start, self.asked) for start in starts]
        images = [part for part in drawn if part is not None]
        return torch.cat(images) if len(images) == len(drawn) else None

    def _starts(self) -> list[Start]:
        return [self._start(pair.caption, self._told(pair.caption)) for pair in self.bench.planted]

    def _attacked(self) -> list[Start]:
        """An embedding that makes the model denoise each pair's image, given to the base as well, as a guard does."""
        found = []
        for pair in self.bench.planted:
            target = Target(pair.caption, pair.group, self.pixels[pair.key])
            embedding, _ = attack_embedding(self.bench.opened, target, self.attack)
            found.append(self._start(pair.caption, (embedding, embedding), searched=True))
        return found

    def _told(self, caption: str) -> tuple[Conditioning, Conditioning]:
        """By each model's own text encoders."""
        base = self.bench.opened.base
        assert base is not None
        return self.bench.opened.encode([caption]), base.encode([caption]).to(self.bench.opened.device)

    def _start(self, caption: str, told: tuple[Conditioning, Conditioning], searched: bool = False) -> Start:
        opened, count = self.bench.opened, self.attack.images
        assert opened.base is not None
        noise = opened.noise([caption] * count, range(count), self.asked.settings.seed)
        own, theirs = (part.expand(count) for part in told)
        empty = opened.base.denoiser.unconditional(count).to(opened.device)
        against = Against(theirs, empty)
        return Start(noise, own, opened.unconditional(count), against, None if searched else caption)
