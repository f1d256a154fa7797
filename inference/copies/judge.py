"""Does a generation copy the training image of its own prompt? A judge with a calibrated threshold.

A held-out image was never trained on, so however near it lies to a training image, the model did not copy it. The
distances of held-out images to their nearest training image are therefore the null distribution. A generation is a
*copy* where (a) its nearest training group is its own prompt's group and (b) its distance to it is below the ``alpha``
quantile of that null. ``alpha`` is 0.05 by default: two conditions must hold, so false copies are rarer than that, and
a 1 % quantile of the few hundred held-out images at hand would rest on two or three near-twins. It needs at least
1/alpha - 1 held-out images (19; 99 for alpha = 0.01).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memsieve.filtering.conformal import smallest_reference
from memsieve.inference.copies.similarity import Similarity

__all__ = ["DEFAULT_ALPHA", "CopyJudge", "CopyVerdict"]

DEFAULT_ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class CopyVerdict:
    """What the judge says of one generation.

    ``group`` is its prompt's group; ``own_distance`` is the distance to the nearest image of that group, NaN where it
    has no training image; ``p`` = (1 + held-out images at least as near) / (1 + held-out images).
    """

    group: str
    nearest_group: str
    nearest_key: str
    distance: float
    own_distance: float
    p: float
    nearest_is_own: bool
    is_copy: bool


class CopyJudge:
    """Compares generations with all training images, in chunks; only embeddings are kept.

    Args:
        similarity: from ``memsieve.inference.copies.similarity``.
        training_images: [N, 3, H, W] in [-1, 1], or an iterable of such chunks.
        groups: the group of each training image, [N].
        keys: the key of each training image, [N]; the groups where left out.
        alpha: see the module's text.
        chunk: images embedded at once, and rows compared at once (with ``16 * chunk`` training rows).

    Raises:
        ValueError: no training image, or lengths that do not match.
    """

    def __init__(
        self,
        similarity: Similarity,
        training_images: Tensor | Iterable[Tensor],
        groups: Sequence[str],
        *,
        keys: Sequence[str] | None = None,
        alpha: float = DEFAULT_ALPHA,
        chunk: int = 128,
    ) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha = {alpha}: must lie between 0 and 1")
        self.similarity, self.alpha, self.chunk = similarity, alpha, chunk
        self.groups, self.keys = list(groups), list(groups if keys is None else keys)
        self.embeddings = self._embed(training_images)
        if not len(self.embeddings):
            raise ValueError("there is no training image to compare with")
        if not len(self.embeddings) == len(self.groups) == len(self.keys):
            raise ValueError(
                f"{len(self.embeddings)} training images, {len(self.groups)} groups and {len(self.keys)} keys: "
                "each image needs one of each"
            )
        self._number = {name: number for number, name in enumerate(dict.fromkeys(self.groups))}
        self._ids = torch.tensor([self._number[name] for name in self.groups])
        self.null: Tensor | None = None

    def calibrate(self, held_out_images: Tensor | Iterable[Tensor], groups: Sequence[str] | None = None) -> float:
        """Learn the null distribution from images that were never trained on; returns the threshold.

        ``groups``, where given, keeps a held-out image from being compared with training images of its own group.

        Raises:
            ValueError: fewer than 1/alpha - 1 held-out images.
        """
        queries = self._embed(held_out_images)
        needed = smallest_reference(self.alpha)
        if len(queries) < needed:
            raise ValueError(f"alpha = {self.alpha} needs at least {needed} held-out images, got {len(queries)}")
        names = [None] * len(queries) if groups is None else list(groups)
        if len(names) != len(queries):
            raise ValueError(f"{len(queries)} held-out images and {len(names)} groups: each image needs one")
        nearest = torch.cat([other for *_, other in self._search(queries, names)])
        self.null = nearest[torch.isfinite(nearest)].sort().values
        if self.threshold <= 0:
            warnings.warn(
                f"{self.alpha:.0%} of the held-out images equal a training image of another group as far as this "
                "similarity can see, so nothing can be called a copy; put twins into one group, or take a finer one",
                stacklevel=2,
            )
        return self.threshold

    @property
    def threshold(self) -> float:
        """Distances below it are copies: the floor(alpha (n + 1))-th smallest of the n held-out distances."""
        rank = math.floor(self.alpha * (len(self._null()) + 1) + 1e-9)
        return float(self._null()[rank - 1]) if rank else 0.0

    def judge(self, generations: Tensor | Iterable[Tensor], groups: Sequence[str]) -> list[CopyVerdict]:
        """One verdict per generation; ``groups`` names the group of each generation's prompt, [N].

        Where a training image of another group is exactly as near as the own one, the own one counts as nearest.

        Raises:
            ValueError: not calibrated, or lengths that do not match.
        """
        null, threshold = self._null(), self.threshold
        queries = self._embed(generations)
        if len(queries) != len(groups):
            raise ValueError(f"{len(queries)} generations and {len(groups)} groups: each generation needs one")
        verdicts: list[CopyVerdict] = []
        for distances, rows, owns, own_rows, _ in self._search(queries, list(groups)):
            for near, row, own, own_row in zip(
                distances.tolist(), rows.tolist(), owns.tolist(), own_rows.tolist(), strict=True
            ):
                is_own = own <= near
                row = own_row if is_own else row
                rank = int(torch.searchsorted(null, torch.tensor(near, dtype=null.dtype), right=True))
                verdicts.append(
                    CopyVerdict(
                        group=groups[len(verdicts)],
                        nearest_group=self.groups[row],
                        nearest_key=self.keys[row],
                        distance=near,
                        own_distance=own if math.isfinite(own) else math.nan,
                        p=(1 + rank) / (1 + len(null)),
                        nearest_is_own=is_own,
                        is_copy=is_own and near < threshold,
                    )
                )
        return verdicts

    def _null(self) -> Tensor:
        if self.null is None or not len(self.null):
            raise ValueError("the judge is not calibrated: call calibrate(held_out_images) first")
        return self.null

    def _embed(self, images: Tensor | Iterable[Tensor]) -> Tensor:
        parts = [images] if isinstance(images, Tensor) else images
        embedded = [self.similarity.embed(piece) for part in parts for piece in part.split(self.chunk) if len(piece)]
        return torch.cat(embedded) if embedded else torch.empty(0, 0)

    def _search(self, queries: Tensor, groups: Sequence[str | None]) -> Iterator[tuple[Tensor, ...]]:
        """Per chunk of queries: nearest distance and row, nearest own distance and row, nearest distance of others."""
        numbers = torch.tensor([-1 if name is None else self._number.get(name, -1) for name in groups])
        width = 16 * self.chunk
        for start in range(0, len(queries), self.chunk):
            query, number = queries[start : start + self.chunk], numbers[start : start + self.chunk]
            best, own, other = (torch.full((len(query),), math.inf) for _ in range(3))
            best_row, own_row = (torch.zeros(len(query), dtype=torch.long) for _ in range(2))
            for first in range(0, len(self.embeddings), width):
                distances = self.similarity.distance(query, self.embeddings[first : first + width])
                mine = number[:, None] == self._ids[None, first : first + width]
                value, row = distances.min(1)
                best, best_row = torch.minimum(best, value), torch.where(value < best, row + first, best_row)
                value, row = distances.masked_fill(~mine, math.inf).min(1)
                own, own_row = torch.minimum(own, value), torch.where(value < own, row + first, own_row)
                other = torch.minimum(other, distances.masked_fill(mine, math.inf).min(1).values)
            yield best, best_row, own, own_row, other
