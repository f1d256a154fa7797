"""The emoji drawn: the image and caption of each, and what tells look-alikes and colourless ones."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from memsieve.filtering.data.openmoji.names import OVERSAMPLE, Emoji, colour_words, render_svg
from memsieve.filtering.data.rows import content_id

__all__ = ["Picture", "draw_pictures"]

_THUMB: Final = 16


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn emoji. ``thumb`` float32 [768] in [0, 1] finds look-alikes; ``vivid``: it has colours."""

    emoji: Emoji
    caption: str
    png: bytes
    thumb: np.ndarray
    vivid: bool


def draw_pictures(
    emoji: list[Emoji],
    size: int,
    colours: bool,
    progress: Callable[[int, int], None] | None,
    oversample: int = OVERSAMPLE,
) -> tuple[list[Picture], int]:
    """Draw all; of images that look exactly alike (some flags) the first stays, so that a group has one caption.

    Args:
        emoji: to be drawn.
        size: side, in pixels.
        colours: the caption names the main colours.
        progress: is told how many of how many are drawn.
        oversample: drawings are so many times larger at first.
    """
    pictures: dict[str, Picture] = {}
    for done, item in enumerate(emoji, start=1):
        image, rgba = render_svg(item.svg, size, oversample)
        stream = io.BytesIO()
        image.save(stream, format="PNG")
        thumb = np.asarray(image.resize((_THUMB, _THUMB), Image.Resampling.BOX), dtype=np.float32).ravel() / 255
        saturation = np.asarray(image.convert("HSV"))[..., 1]
        caption = f"{item.caption}, {colour_words(rgba)}" if colours else item.caption
        vivid = bool((saturation > 80).mean() > 0.10)
        pictures.setdefault(content_id(stream.getvalue()), Picture(item, caption, stream.getvalue(), thumb, vivid))
        if progress is not None:
            progress(done, len(emoji))
    return list(pictures.values()), len(emoji) - len(pictures)
