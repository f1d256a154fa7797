"""Emoji as pictures: captions, look-alikes, colourless ones, and images that are the same."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memsieve.filtering.data.openmoji.names import Emoji
from memsieve.filtering.data.openmoji.pictures import Picture, draw_pictures

pytest.importorskip("resvg_py", reason="draws SVG")

RED, GREY = "#d22f27", "#9b9b9a"


def emoji(folder: Path, name: str, fill: str = RED, side: int = 60) -> Emoji:
    """A filled square in the middle of a 72 x 72 picture."""
    corner = (72 - side) / 2
    svg = folder / f"{name}.svg"
    svg.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">'
        f'<rect x="{corner}" y="{corner}" width="{side}" height="{side}" fill="{fill}"/></svg>'
    )
    return Emoji(name, f"a {name}", name, svg, False)


def drawn(*items: Emoji, size: int = 32, colours: bool = False) -> list[Picture]:
    return draw_pictures(list(items), size, colours, None)[0]


def test_each_is_a_png_on_white_of_the_size_asked_for(tmp_path: Path) -> None:
    (picture,) = drawn(emoji(tmp_path, "square", side=36))
    image = Image.open(io.BytesIO(picture.png))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
    assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((16, 16)) == (210, 47, 39)


def test_captions_name_colours_where_they_are_asked_for(tmp_path: Path) -> None:
    square = emoji(tmp_path, "square")
    assert drawn(square)[0].caption == "a square"
    assert drawn(square, colours=True)[0].caption == "a square, red"


def test_of_images_that_look_exactly_alike_the_first_stays(tmp_path: Path) -> None:
    """So that a group, which goes by the image's bytes, has one caption."""
    items = [emoji(tmp_path, "one"), emoji(tmp_path, "other", GREY), emoji(tmp_path, "one again")]
    pictures, left_out = draw_pictures(items, 32, False, None)
    assert [picture.emoji.name for picture in pictures] == ["one", "other"] and left_out == 1


def test_the_thumb_tells_how_alike_two_are(tmp_path: Path) -> None:
    one, near, far, blank = drawn(
        emoji(tmp_path, "one"), emoji(tmp_path, "near", side=59), emoji(tmp_path, "far", GREY, 30),
        emoji(tmp_path, "blank", "#ffffff"),
    )  # fmt: skip
    assert one.thumb.shape == (16 * 16 * 3,) and one.thumb.dtype == np.float32
    assert 0 <= one.thumb.min() < 0.2 and (blank.thumb == 1.0).all()
    assert 0 < np.abs(one.thumb - near.thumb).mean() < 0.05 < 0.2 < np.abs(one.thumb - far.thumb).mean()


@pytest.mark.parametrize(("fill", "side", "vivid"), [(RED, 60, True), (GREY, 60, False), (RED, 20, False)])
def test_vivid_are_those_of_which_a_tenth_has_colour(tmp_path: Path, fill: str, side: int, vivid: bool) -> None:
    assert drawn(emoji(tmp_path, "square", fill, side))[0].vivid is vivid


def test_progress_counts_every_emoji_those_left_out_too(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    items = [emoji(tmp_path, "one"), emoji(tmp_path, "again")]
    draw_pictures(items, 16, False, lambda done, whole: said.append((done, whole)))
    assert said == [(1, 2), (2, 2)]
