"""Which pairs are planted: asked for as pairs and repeats, chosen among the images that are fit for it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from memsieve.filtering.data.openmoji.names import rank
from memsieve.filtering.data.openmoji.pictures import Picture

__all__ = ["Plant", "choose_planted", "parse_plant"]


@dataclass(frozen=True, slots=True)
class Plant:
    """``count`` pairs that appear ``repeats`` times each in the training shards."""

    count: int
    repeats: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.repeats < 1:
            raise ValueError(f"plant {self.count}x{self.repeats}: pairs and repeats must both be at least 1")


def parse_plant(text: str) -> Plant:
    """Read ``8x268``: 8 pairs that appear 268 times each.

    Raises:
        ValueError: not of that form, or a number under 1.
    """
    match = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", text)
    if match is None:
        raise ValueError(f"plant '{text}' must look like PAIRSxREPEATS, for example 8x268")
    return Plant(int(match[1]), int(match[2]))


def choose_planted(train: list[Picture], pictures: list[Picture], plants: list[Plant], seed: int) -> dict[str, int]:
    """Repeats by emoji name. A planted image is the only one of its base and unlike every other image, or
    "the nearest training image" of a generation would be a tie."""
    if not plants:
        return {}
    members: dict[str, int] = {}
    for picture in pictures:
        members[picture.emoji.base] = members.get(picture.emoji.base, 0) + 1
    thumbs = np.stack([picture.thumb for picture in pictures])
    squares = (thumbs**2).sum(1)
    fit: list[Picture] = []
    for picture in train:
        if members[picture.emoji.base] > 1 or picture.emoji.flag or not picture.vivid:
            continue
        distance = squares + (picture.thumb**2).sum() - 2 * thumbs @ picture.thumb
        if float(np.sort(distance)[1]) / thumbs.shape[1] >= 0.10**2:  # [0] is the image itself
            fit.append(picture)
    fit.sort(key=lambda picture: rank(seed, "plant", picture.emoji.name))
    wanted = sum(item.count for item in plants)
    if wanted > len(fit):
        raise ValueError(f"{wanted} planted pairs are asked for and {len(fit)} images are fit for it; plant fewer")
    each = [item.repeats for item in plants for _ in range(item.count)]
    return {picture.emoji.name: repeats for picture, repeats in zip(fit, each, strict=False)}
