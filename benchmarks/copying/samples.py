"""The rows of a stream: a picture and a caption, and the ways in which a pair's rows differ from each other."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from memsieve.filtering.data.openmoji import Picture
from memsieve.filtering.identity.edits import EDITS

__all__ = [
    "KINDS",
    "PHRASES",
    "STYLES",
    "Row",
    "image_of",
    "paraphrase",
    "plain_row",
    "png_of",
    "rare_row",
    "rows_of",
    "template",
]

STYLES: Final = ("grey", "outline", "negative")
"""Of rare pairs: unlike all others, each there once."""
PHRASES: Final = (
    "{name}, {colours}", "a picture of {name}, {colours}", "{colours} {name}", "{name} in {colours}", "{name} emoji",
    "an icon that shows {name}", "drawing of {name}, {colours}", "{name} on white, {colours}", "{colours}: {name}",
    "symbol, {name}", "{name}, small picture", "the {name}, {colours}", "one {name}", "{name} and nothing else",
    "sign of {name} with {colours}",
)  # fmt: skip
"""One thing said in many ways."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a stream, which holds its pair ``repeats`` times. ``pair`` is its true identity, whatever its bytes and
    its caption say; ``prompt`` is the caption that the pair is drawn by, whatever stands in this row."""

    pair: str
    case: str
    repeats: int
    png: bytes = field(repr=False)
    caption: str
    prompt: str
    base: str


def plain_row(picture: Picture, case: str, repeats: int = 1) -> Row:
    """The picture under its own caption."""
    return Row(picture.emoji.name, case, repeats, picture.png, picture.caption, picture.caption, picture.emoji.base)


def rows_of(picture: Picture, kind: str, case: str, repeats: int, seed: int) -> list[Row]:
    """A pair's ``repeats`` rows, the first of them plain; the same for the same seed.

    Raises:
        KeyError: ``kind`` is none of ``KINDS``.
    """
    change, plain = KINDS[kind], plain_row(picture, case, repeats)
    draws = np.random.default_rng([seed, *picture.emoji.name.encode()])
    return [plain, *[change(plain, draws) for _ in range(repeats - 1)]]


def rare_row(picture: Picture, style: str) -> Row:
    """A pair unlike the others, which must not be dropped."""
    image = image_of(picture.png)
    if style == "grey":
        image = ImageOps.grayscale(image).convert("RGB")
    elif style == "outline":
        image = ImageOps.invert(ImageOps.grayscale(image).filter(ImageFilter.FIND_EDGES)).convert("RGB")
        ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline="white")
    else:
        image = ImageOps.invert(image)
    caption = f"{picture.caption.rpartition(', ')[0]}, {style}"
    return Row(picture.emoji.name, "rare", 1, png_of(image), caption, caption, picture.emoji.base)


def _exact(row: Row, draws: np.random.Generator) -> Row:
    return row


def _family(row: Row, draws: np.random.Generator) -> Row:
    """One picture, another file: an edit of those that pictures meet in the web. Some give the same file twice."""
    edit = list(EDITS.values())[int(draws.integers(len(EDITS)))]
    made = png_of(edit(image_of(row.png), draws))
    # A picture that is its own mirror image would be the same file.
    return replace(row, png=made if made != row.png else png_of(EDITS["mix"](image_of(row.png), draws)))


def paraphrase(row: Row, draws: np.random.Generator) -> Row:
    """The same file under another caption."""
    name, _, colours = row.caption.rpartition(", ")
    phrase = PHRASES[int(draws.integers(len(PHRASES)))]
    return replace(row, caption=phrase.format(name=name, colours=colours))


def template(row: Row, draws: np.random.Generator) -> Row:
    """One caption, many pictures: the thing stays where it is, the ground and a badge in a corner are others."""
    image = image_of(row.png)
    ground, badge = (tuple(int(v) for v in draws.integers(low, 256, 3)) for low in (150, 0))
    # White is the ground: what is not white stays, and edges stay smooth.
    mask = ImageOps.grayscale(image).point(lambda v: 255 if v >= 250 else 0)
    image.paste(Image.new("RGB", image.size, ground), mask=mask)
    side, size = image.width, max(image.width // 5, 2)
    corner = ((0, 0), (side - size, 0), (0, side - size), (side - size, side - size))[int(draws.integers(4))]
    ImageDraw.Draw(image).ellipse((*corner, corner[0] + size - 1, corner[1] + size - 1), fill=badge)
    return replace(row, png=png_of(image))


KINDS: Final[dict[str, Callable[[Row, np.random.Generator], Row]]] = {
    "exact": _exact, "family": _family, "paraphrase": paraphrase, "template": template,
}  # fmt: skip
"""Kind of repetition -> what becomes of the plain row."""


def image_of(png: bytes) -> Image.Image:
    """The picture of a file."""
    return Image.open(io.BytesIO(png)).convert("RGB")


def png_of(image: Image.Image) -> bytes:
    """The file of a picture."""
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()
