"""Aspect-ratio buckets: the shapes that pictures are cut to, and which of them is whose.

All have about as many pixels as the square of ``data.resolution``: what a picture costs, and how large a norm over its
latent can be, is about the same in each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal

from memsieve.filtering.settings import SettingsError

__all__ = ["STANDARD", "Bucket", "Buckets", "nearest_bucket", "shapes_of", "sides_of"]

Bucket = tuple[int, int]
"""(height, width) in pixels."""
Buckets = Literal["auto"] | list[str]

GRID: Final = 16
STANDARD: Final = (
    (16, 16), (14, 18), (18, 14), (13, 19), (19, 13), (12, 21), (21, 12), (10, 24), (24, 10),
)  # fmt: skip
"""Heights and widths in sixteenths of ``data.resolution``: at 1024 the nine shapes that SDXL is published for (1024 x
1024, 1152 x 896, 1216 x 832, 1344 x 768, 1536 x 640 and the same upright)."""
APART: Final = 0.125
"""Share of the square's pixels that a shape may have more or fewer: 704 x 1344 of SDXL's own table has 10 % fewer."""
_NAMED: Final = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


def sides_of(name: str) -> Bucket:
    """(height, width) of a shape that is written as WIDTHxHEIGHT, as sizes of pictures are.

    Raises:
        ValueError: it is written otherwise.
    """
    found = _NAMED.fullmatch(name)
    if found is None:
        raise ValueError(f"data.buckets: '{name}' is no shape; write WIDTHxHEIGHT in pixels, as 1344x768")
    return int(found[2]), int(found[1])


def shapes_of(buckets: Buckets | None, resolution: int) -> tuple[Bucket, ...]:
    """The shapes of ``data.buckets``, in their order; one square where there is none.

    Raises:
        SettingsError: a shape has more or fewer pixels than the square, or ``auto`` does not come out even.
    """
    return _shapes(buckets if buckets is None or isinstance(buckets, str) else tuple(buckets), resolution)


@lru_cache(maxsize=64)
def _shapes(buckets: str | tuple[str, ...] | None, resolution: int) -> tuple[Bucket, ...]:
    if buckets is None:
        return ((resolution, resolution),)
    if isinstance(buckets, str):
        unit, rest = divmod(resolution, GRID)
        if rest:
            raise SettingsError(
                f"data.buckets: auto makes shapes of sixteenths of data.resolution, and {resolution} is no multiple of "
                f"{GRID}; set data.resolution: {max(1, unit) * GRID}, or list shapes of your own"
            )
        return tuple((height * unit, width * unit) for height, width in STANDARD)
    shapes = tuple(sides_of(name) for name in buckets)
    for height, width in shapes:
        if abs(height * width / resolution**2 - 1.0) > APART:
            raise SettingsError(
                f"data.buckets: {width}x{height} has {height * width:,} pixels, and the square of data.resolution: "
                f"{resolution} has {resolution**2:,}: shapes may have {APART:.1%} more or fewer, so that what is "
                "measured of their pictures can be compared; name another shape, or another data.resolution"
            )
    return shapes


@lru_cache(maxsize=4096)
def nearest_bucket(width: int, height: int, shapes: Sequence[Bucket]) -> Bucket:
    """The shape whose sides are in the ratio nearest to ``width`` : ``height``, the first of several; what a picture
    has beyond it is cropped."""
    ratio = math.log(width / height)
    return min(shapes, key=lambda shape: abs(math.log(shape[1] / shape[0]) - ratio))
