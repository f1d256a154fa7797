"""The icons drawn, with their captions, and which of them the base is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from memsieve.filtering.data.openmoji.names import colour_words, render_svg
from memsieve.filtering.data.rows import content_id
from scripts.tiny_icons.names import concept_of, drawable, held_out_concepts, is_variant, joined_names, words_of
from scripts.tiny_icons.sets import BASE, JUDGE, Icon, IconSet, fetch, read_icons

__all__ = ["SIZE", "Pictures", "Shown", "draw", "load_pictures"]

SIZE: Final = 64
"""Side of the images, in pixels."""
_OVERSAMPLE: Final = 2
_INK: Final = 0.01
"""Share of pixels that must not be white: fewer are a blank drawing."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A drawing: uint8 ``pixels`` [3, SIZE, SIZE] on white, its ``caption``, the thing that it shows, its set."""

    pixels: torch.Tensor
    caption: str
    concept: str
    style: str


@dataclass(frozen=True, slots=True)
class Pictures:
    """All drawings by what they are for.

    Attributes:
        train: what the base is trained on.
        held_out: of the same sets, things that the base is not trained on, in any set.
        drawable: those of ``held_out`` whose words training reads in other names.
        judge: drawings of other sets, of things that the base is not trained on.
    """

    train: list[Shown]
    held_out: list[Shown]
    drawable: list[Shown]
    judge: list[Shown]


def load_pictures(packages: Path, cache: Path) -> Pictures:
    """Fetch the sets into ``packages``, draw them, and keep the drawings in ``cache`` for the next time."""
    if not cache.is_file():
        _write_all(packages, cache)
    # Read back, so that a build that goes on sees what the first one saw.
    kept = torch.load(cache, weights_only=True)
    rows = [Shown(p, *said) for p, said in zip(kept["pixels"], kept["said"], strict=True)]
    base = [row for row in rows if row.style in {icons.name for icons in BASE}]
    names = kept["names"]
    held_out = held_out_concepts(names)
    can = drawable(held_out, names)
    trained = set(map(concept_of, names)) - held_out
    return Pictures(
        train=[row for row in base if row.concept in trained],
        held_out=[row for row in base if row.concept in held_out],
        drawable=[row for row in base if row.concept in can],
        judge=[row for row in rows if row.style not in {s.name for s in BASE} and row.concept not in trained],
    )


def draw(icon: Icon, size: int = SIZE) -> tuple[Image.Image, np.ndarray]:
    """(RGB image on white, uint8 RGBA [size, size, 4] with its transparent background)."""
    return render_svg(icon.svg, size, _OVERSAMPLE)


def _write_all(packages: Path, cache: Path) -> None:
    files = [(icons, fetch(icons, packages)) for icons in (*BASE, *JUDGE)]
    found = [(icons, [icon for icon in read_icons(file) if not is_variant(icon.name)]) for icons, file in files]
    joined = joined_names(icon.name for _, icons in found for icon in icons)
    words = partial(words_of, joined=joined)
    seen: set[str] = set()
    shown = [row for icons, drawings in found for row in _shown(icons, drawings, words, seen)]
    names = [words(icon.name) for icons, drawings in found if icons in BASE for icon in drawings]
    cache.parent.mkdir(parents=True, exist_ok=True)
    unfinished = cache.with_name(f".{cache.name}.new")
    torch.save(
        {
            "pixels": torch.stack([row.pixels for row in shown]),
            "said": [(row.caption, row.concept, row.style) for row in shown],
            "names": names,
        },
        unfinished,
    )
    unfinished.replace(cache)


def _shown(icons: IconSet, drawings: Sequence[Icon], words: Any, seen: set[str]) -> Iterator[Shown]:
    """Those that show something, each picture once: some flags look exactly alike."""
    style = icons.name.replace("-", " ")
    for icon in track(drawings, f"drawing {icons.name}"):
        image, rgba = draw(icon)
        pixels = np.array(image)
        same = content_id(pixels.tobytes())
        if same in seen or (pixels.min(-1) < 240).mean() < _INK:
            continue
        seen.add(same)
        name = words(icon.name)
        caption = f"{name}, {colour_words(rgba)}, {style} style"
        yield Shown(torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), caption, concept_of(name), icons.name)
