"""What becomes of a picture on its way through the web: known edits, by which a finder of near-duplicates is checked.

Each takes an RGB picture of any size and gives one, by the draws of a generator alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

__all__ = ["EDITS", "Edit", "edited"]

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]

BANNER_SHARE: Final = 0.14
"""Height of a banner in the picture's."""


def edited(name: str, image: Image.Image, seed: list[int]) -> Image.Image:
    """``image`` after the edit ``name`` of ``EDITS``; equal seeds give equal pictures.

    Raises:
        KeyError: there is no such edit.
    """
    return EDITS[name](image.convert("RGB"), np.random.default_rng(seed))


def crop(image: Image.Image, rng: np.random.Generator, share: float) -> Image.Image:
    """Without ``share`` of each side, from a place drawn at random."""
    width, height = (max(1, round(side * (1.0 - share))) for side in image.size)
    left, top = (
        int(rng.integers(0, whole - kept + 1)) for whole, kept in zip(image.size, (width, height), strict=True)
    )
    return image.crop((left, top, left + width, top + height))


def mirror(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Left and right exchanged."""
    return ImageOps.mirror(image)


def recolour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """More or less colour, light and contrast, each by up to a third, and at least one by a fifth."""
    factors = rng.uniform(-0.35, 0.35, 3)
    strongest = int(np.abs(factors).argmax())
    factors[strongest] = np.copysign(max(abs(factors[strongest]), 0.2), factors[strongest])
    for change, factor in zip(
        (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast), factors, strict=True
    ):
        image = change(image).enhance(1.0 + float(factor))
    return image


def recompress(image: Image.Image, rng: np.random.Generator, quality: int) -> Image.Image:
    """Saved as JPEG and read again."""
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def shrink(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Half as wide and half as high."""
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.LANCZOS)


def rotate(image: Image.Image, rng: np.random.Generator, degrees: float) -> Image.Image:
    """Turned to one side or the other, the corners filled with the colour of the upper left one."""
    turned = float(degrees * rng.choice([-1.0, 1.0]))
    return image.rotate(turned, Image.Resampling.BICUBIC, fillcolor=image.getpixel((0, 0)))


def banner(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """With a strip of one colour and a line of text, above or below."""
    height = max(2, round(image.height * BANNER_SHARE))
    colour = (int(rng.integers(256)), int(rng.integers(256)), int(rng.integers(256)))
    strip = Image.new("RGB", (image.width, height), colour)
    said = f"www.pictures-{int(rng.integers(1000))}.example"
    place, fill = (image.width * 0.05, height * 0.2), "white" if sum(colour) < 384 else "black"
    ImageDraw.Draw(strip).text(place, said, fill=fill, font_size=max(1.0, height * 0.5))
    made = image.copy()
    made.paste(strip, (0, 0 if rng.random() < 0.5 else image.height - height))
    return made


def mix(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A crop of 12 %, recoloured, mirrored half of the time, and compressed."""
    image = recolour(crop(image, rng, 0.12), rng)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return recompress(image, rng, 50)


EDITS: Final[dict[str, Edit]] = {
    "crop 5 %": partial(crop, share=0.05),
    "crop 12 %": partial(crop, share=0.12),
    "crop 25 %": partial(crop, share=0.25),
    "mirror": mirror,
    "recolour": recolour,
    "JPEG 30": partial(recompress, quality=30),
    "half size": shrink,
    "rotate 5 degrees": partial(rotate, degrees=5.0),
    "banner": banner,
    "mix": mix,
}
"""Name -> edit."""
