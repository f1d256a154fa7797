"""One row of the stream, and the ways in which a hard case's rows differ from each other."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from memsieve.filtering.data.openmoji import Picture

__all__ = ["HARD_CASES", "STYLES", "Sample", "near_duplicate", "paraphrase", "rare_style", "template"]

HARD_CASES = ("paraphrase", "near_duplicate", "template")
STYLES = ("grey", "outline", "negative")
PHRASES = (
    "{name}, {colours}", "a picture of {name}, {colours}", "{colours} {name}", "{name} in {colours}", "{name} emoji",
    "an icon that shows {name}", "drawing of {name}, {colours}", "{name} on white, {colours}", "{colours}: {name}",
    "symbol, {name}", "{name}, small picture", "the {name}, {colours}", "one {name}", "{name} and nothing else",
    "sign of {name} with {colours}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """A row of the stream, which holds its pair ``repeats`` times. ``pair`` is its true identity, whatever its bytes
    and its caption."""

    pair: str
    case: str
    repeats: int
    png: bytes = field(repr=False)
    caption: str
    prompt: str
    """The caption that the pair is drawn by, whatever stands in this row."""
    base: str


def paraphrase(sample: Sample, rng: np.random.Generator) -> Sample:
    """The same image under another caption."""
    name, _, colours = sample.caption.rpartition(", ")
    phrase = PHRASES[int(rng.integers(len(PHRASES)))]
    return _changed(sample, sample.png, phrase.format(name=name, colours=colours))


def near_duplicate(sample: Sample, rng: np.random.Generator) -> Sample:
    """The image cropped, mirrored, compressed anew or recoloured, one or several of these; the same caption."""
    image = Image.open(io.BytesIO(sample.png)).convert("RGB")
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
    return _changed(sample, _png(image), sample.caption)


def template(sample: Sample, rng: np.random.Generator) -> Sample:
    """One caption, many images: the thing stays where it is, the ground and a badge in a corner are others."""
    image = Image.open(io.BytesIO(sample.png)).convert("RGB")
    ground, badge = (tuple(int(v) for v in rng.integers(low, 256, 3)) for low in (150, 0))
    # White is the ground: what is not white stays, and edges stay smooth.
    mask = ImageOps.grayscale(image).point(lambda v: 255 if v >= 250 else 0)
    image.paste(Image.new("RGB", image.size, ground), mask=mask)
    side, size = image.width, max(image.width // 5, 2)
    corner = ((0, 0), (side - size, 0), (0, side - size), (side - size, side - size))[int(rng.integers(4))]
    ImageDraw.Draw(image).ellipse((*corner, corner[0] + size - 1, corner[1] + size - 1), fill=badge)
    return _changed(sample, _png(image), sample.caption)


def rare_style(picture: Picture, style: str) -> Sample:
    """A pair unlike the others, which stands in the stream once and must not be dropped."""
    image = Image.open(io.BytesIO(picture.png)).convert("RGB")
    if style == "grey":
        image = ImageOps.grayscale(image).convert("RGB")
    elif style == "outline":
        image = ImageOps.invert(ImageOps.grayscale(image).filter(ImageFilter.FIND_EDGES)).convert("RGB")
        ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline="white")
    else:
        image = ImageOps.invert(image)
    name = picture.caption.rpartition(", ")[0]
    caption = f"{name}, {style}"
    return Sample(picture.emoji.name, "rare", 1, _png(image), caption, caption, picture.emoji.base)


def _changed(sample: Sample, png: bytes, caption: str) -> Sample:
    return replace(sample, png=png, caption=caption)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()
