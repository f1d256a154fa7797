"""What a descriptor sees of a file: upright, on a ground on which there is something to see."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import BadSample
from memsieve.filtering.identity.picture import FLAT, is_flat, seen_picture

CONFIG = DataConfig(path="none")


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def icon(ink: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((10, 10, 40, 40), fill=ink)
    return image


def test_a_white_icon_on_a_transparent_ground_is_no_blank_page() -> None:
    white, black = (seen_picture(file_of(icon(ink)), CONFIG) for ink in ((255,) * 4, (0, 0, 0, 255)))
    assert white.reason is black.reason is None and white.picture is not None and black.picture is not None
    assert white.picture.getpixel((25, 25)) == (255, 255, 255) and white.picture.getpixel((0, 0)) == (0, 0, 0)
    assert black.picture.getpixel((25, 25)) == (0, 0, 0) and black.picture.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (30, 90, 200)])
def test_a_picture_of_one_colour_is_flat_with_its_reason(colour: tuple[int, int, int]) -> None:
    noisy = np.full((50, 70, 3), colour, dtype=np.int16) + np.random.default_rng(0).integers(-1, 2, (50, 70, 3))
    for image in (Image.new("RGB", (50, 70), colour), Image.fromarray(noisy.clip(0, 255).astype(np.uint8))):
        seen = seen_picture(file_of(image), CONFIG)
        assert seen.picture is None and seen.reason == FLAT


def test_a_thin_line_is_something_to_see() -> None:
    image = Image.new("L", (256, 256), 255)
    ImageDraw.Draw(image).line((0, 0, 255, 255), fill=0, width=2)
    assert not is_flat(image) and is_flat(Image.new("L", (256, 256), 7))


def test_pictures_are_upright_and_animations_are_their_first_frame() -> None:
    wide = Image.new("RGB", (40, 20), "white")
    ImageDraw.Draw(wide).rectangle((0, 0, 9, 19), fill="red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    seen = seen_picture(file_of(wide, "JPEG", exif=exif), CONFIG).picture
    assert seen is not None and seen.size == (20, 40)
    frames = [Image.new("RGB", (30, 30), "white") for _ in range(2)]
    ImageDraw.Draw(frames[0]).rectangle((5, 5, 20, 20), fill="blue")
    ImageDraw.Draw(frames[1]).rectangle((5, 5, 20, 20), fill="red")
    moving = seen_picture(file_of(frames[0], "GIF", save_all=True, append_images=frames[1:]), CONFIG).picture
    assert moving is not None and moving.getpixel((10, 10))[2] > 200 > moving.getpixel((10, 10))[0]


def test_a_broken_file_is_a_bad_sample() -> None:
    with pytest.raises(BadSample, match="is not one of"):
        seen_picture(b"nothing", CONFIG)
