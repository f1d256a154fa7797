"""The picture that a descriptor sees: the original, upright, at its own size, not the model's crop of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import decode_image

__all__ = ["FLAT", "Seen", "is_flat", "seen_picture"]

_SIDE: Final = 64
_SPREAD: Final = 2.0
"""Standard deviation of a channel's values of 0 to 255: noise of compression lies below, a thin line above."""
FLAT: Final = "flat"
"""Why a picture has no descriptor: it is of one colour, and all such pictures would be one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An RGB picture, or why there is none to describe."""

    picture: Image.Image | None
    reason: str | None = None


def seen_picture(data: bytes, config: DataConfig, decoded: Image.Image | None = None) -> Seen:
    """The picture in ``data``, transparency laid on white, as training sees it; where nothing is to be seen so, on
    black: an icon in white on a transparent ground is no blank page. Of an animation the first frame.

    Args:
        data: the file.
        config: limits of what is decoded.
        decoded: what ``decode_image`` made of it, where that is known.

    Raises:
        BadSample: as ``decode_image``.
    """
    picture = decode_image(data, config) if decoded is None else decoded
    if not is_flat(picture):
        return Seen(picture)
    picture = decode_image(data, config, ground=(0, 0, 0))
    return Seen(None, FLAT) if is_flat(picture) else Seen(picture)


def is_flat(picture: Image.Image) -> bool:
    """Whether a picture is of one colour, noise apart: no descriptor says anything of it."""
    small = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return bool(np.asarray(small, dtype=np.float32).std(axis=(0, 1)).max() < _SPREAD)
