"""How often a drawing is nearest to its own picture, beyond what a model does that has not seen the picture.

A good base is often nearest to a prompt's picture without copying it: the caption says what to draw. So the rate of
training pairs is compared with that of held-out pairs in the same model, against galleries of the same size, in which a
family of pictures counts as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memsieve.inference.copies.similarity import Similarity

__all__ = ["Excess", "excess", "own_rates"]

Array = npt.NDArray[np.float64]
PATHS: Final = 2000
"""Bootstrap samples of pairs."""
POWER: Final = 0.84
"""Normal quantile of a power of .8: a difference of (1.96 + .84) standard errors is seen four times in five."""


@dataclass(frozen=True, slots=True)
class Excess:
    """The rate of training pairs, of held-out ones, their difference with its 95 % interval over pairs, and the
    smallest difference that so many pairs would have shown four times in five."""

    rate: float
    held_out: float
    difference: float
    low: float
    high: float
    smallest: float


@torch.no_grad()
def own_rates(
    similarity: Similarity,
    drawn: Tensor,
    own: Sequence[int],
    families: Sequence[Tensor],
    gallery: int,
    seed: int = 0,
) -> Array:
    """Share of each pair's drawings that are nearest to its own family, among ``gallery`` families.

    Args:
        similarity: compares.
        drawn: [P, K, 3, H, W] in [-1, 1], K drawings of each of P pairs.
        own: the number of each pair's family, [P].
        families: the pictures of each family, [M, 3, h, w] each; all pictures that a gallery may hold.
        gallery: families that a drawing is compared with, its own among them; the others are drawn anew for each pair.
        seed: of that.

    Returns:
        float64 [P].

    Raises:
        ValueError: there are fewer families than a gallery has.
    """
    if len(families) < gallery:
        raise ValueError(f"a gallery of {gallery} needs as many families, and there are {len(families)}")
    counts = [len(pictures) for pictures in families]
    known = torch.cat([similarity.embed(pictures) for pictures in families])
    ends = np.cumsum([0, *counts])
    rng = np.random.default_rng(seed)
    rates = np.zeros(len(drawn))
    for p, (images, mine) in enumerate(zip(drawn, own, strict=True)):
        others = rng.permutation(np.delete(np.arange(len(families)), mine))[: gallery - 1]
        distances = similarity.distance(similarity.embed(images), known)
        nearest = torch.stack([distances[:, ends[f] : ends[f + 1]].min(1).values for f in (mine, *others)], dim=1)
        rates[p] = float((nearest.argmin(1) == 0).double().mean())
    return rates


def excess(trained: Array, held_out: Array, seed: int = 0) -> Excess:
    """The excess of training pairs' rates [P] over held-out pairs' [Q]; pairs are the unit, not drawings."""
    rng = np.random.default_rng(seed)
    means = [rows[rng.integers(0, len(rows), (PATHS, len(rows)))].mean(1) for rows in (trained, held_out)]
    differences = means[0] - means[1]
    low, high = np.quantile(differences, [0.025, 0.975])
    # Where all pairs agree there is no spread: then as if one pair of each side had gone the other way.
    error = max(float(differences.std()), (len(trained) ** -2.0 + len(held_out) ** -2.0) ** 0.5)
    rate, other = float(trained.mean()), float(held_out.mean())
    return Excess(rate, other, rate - other, float(low), float(high), (1.96 + POWER) * error)
