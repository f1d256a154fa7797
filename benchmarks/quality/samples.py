"""The hard cases of the stream, which differ in more than being read often; the kinds themselves are those of
benchmarks/copying."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.copying.samples import Row, image_of, png_of

__all__ = ["HARD_CASES", "near_duplicate"]

HARD_CASES = ("paraphrase", "near_duplicate", "template")


def near_duplicate(row: Row, rng: np.random.Generator) -> Row:
    """The image cropped, mirrored, compressed anew or recoloured, one or several of these; the same caption."""
    image = image_of(row.png)
    chosen = rng.random(4) < 0.5
    if not chosen.any():
        chosen[int(rng.integers(4))] = True
    side = image.width
    if chosen[0]:
        keep = side - int(rng.integers(1, max(side // 8, 2)))
        left, top = (int(rng.integers(0, side - keep + 1)) for _ in range(2))
        image = image.crop((left, top, left + keep, top + keep)).resize((side, side), Image.Resampling.LANCZOS)
    if chosen[1]:
        image = ImageOps.mirror(image)
    if chosen[2]:
        for kind in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
            image = kind(image).enhance(float(rng.uniform(0.8, 1.2)))
    if chosen[3]:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(rng.integers(50, 95)))
        image = Image.open(stream).convert("RGB")
    return replace(row, png=png_of(image))
