"""Shapes of buckets, and whose they are."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from memsieve.filtering.data.buckets import STANDARD, nearest_bucket, shapes_of, sides_of
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import centred_pixels, decode_image, decode_row, upright_size
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.settings import SettingsError


def test_the_standard_shapes_are_sdxls_at_1024_and_scale() -> None:
    named = [f"{width}x{height}" for height, width in shapes_of("auto", 1024)]
    assert named == ["1024x1024", "1152x896", "896x1152", "1216x832", "832x1216", "1344x768", "768x1344", "1536x640",
                     "640x1536"]  # fmt: skip
    assert shapes_of("auto", 512)[5] == (384, 672)
    for resolution in (256, 512, 768, 1024):
        for height, width in shapes_of("auto", resolution):
            assert abs(height * width / resolution**2 - 1) < 0.07, "as many pixels"
    assert shapes_of(None, 24) == ((24, 24),)
    assert shapes_of(["48x12", "24x24"], 24) == ((12, 48), (24, 24)), "written as width x height, kept as (H, W)"
    assert {(width, height) for height, width in STANDARD} == set(STANDARD)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(10, 10, (16, 16)), (2000, 1333, (13, 19)), (1333, 2000, (19, 13)), (1920, 1080, (12, 21)), (1080, 1920, (21, 12)),
     (4, 3, (14, 18)), (5, 4, (14, 18)), (9, 8, (16, 16)), (10**8, 1, (10, 24)), (1, 10**8, (24, 10))],
)  # fmt: skip
def test_the_nearest_in_ratio(width: int, height: int, expected: tuple[int, int]) -> None:
    assert nearest_bucket(width, height, shapes_of("auto", 16)) == expected


def test_between_two_it_is_the_first() -> None:
    assert nearest_bucket(1, 1, ((8, 32), (32, 8))) == (8, 32)
    assert nearest_bucket(1, 1, ((32, 8), (8, 32))) == (32, 8)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"buckets": ["1024*1024"]}, r"'1024\*1024' is no shape; write WIDTHxHEIGHT in pixels, as 1344x768"),
        ({"buckets": ["0x16"]}, "'0x16' is no shape"),
        ({"buckets": []}, "no shape in the list"),
        ({"buckets": ["64x4"], "resolution": 16}, "'64x4' has a side of less than 8 pixels"),
        ({"buckets": ["1024x1024"], "resolution": 512}, "1024x1024 has 1,048,576 pixels, and the square of .* 262,144"),
        ({"buckets": "auto", "resolution": 500}, "500 is no multiple of 16; set data.resolution: 496, or list shapes"),
        ({"buckets": "some"}, "buckets"),
    ],
)  # fmt: skip
def test_what_is_no_bucket_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DataConfig(path="x", **values)


def test_shapes_wait_for_a_resolution_that_the_model_gives() -> None:
    config = DataConfig(path="x", buckets=["1024x1024", "832x1216", "1024x1024"])
    with pytest.raises(SettingsError, match="data.resolution: 512"):
        _ = config.shapes
    config.resolution = 1024
    assert config.shapes == ((1024, 1024), (1216, 832))
    assert sides_of("12x8") == (8, 12)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def slope(width: int, height: int) -> Image.Image:
    """Red says how far to the right, green how far down."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, np.zeros_like(down)], -1).round().astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(120, 80), (80, 120), (100, 100), (300, 60), (60, 300), (160, 96)])
def test_a_picture_covers_its_shape_and_loses_what_stands_over_evenly(width: int, height: int) -> None:
    shapes = shapes_of("auto", 64)
    down, across = nearest_bucket(width, height, shapes)
    pixels = centred_pixels(slope(width, height), *shapes)
    assert pixels.shape == (3, down, across)
    scale = max(across / width, down / height)
    red, green = (pixels[:2] + 1) / 2
    for seen, of, line in ((across, width * scale, red.mean(0)), (down, height * scale, green.mean(1))):
        start = (of - seen) / 2 / of
        assert [float(line[0]), float(line[-1])] == pytest.approx([start, 1 - start], abs=0.03)
    raw = RawRow("k", "s", 0, encoded(slope(width, height)), "x")
    config = DataConfig(path="x", resolution=64, buckets="auto")
    assert torch.equal(decode_row(raw, config, 0, 0, 0, 0).pixels, pixels)


def test_a_random_crop_stays_inside_and_moves_along_the_side_that_stands_over() -> None:
    config = DataConfig(path="x", resolution=64, buckets=["64x64", "96x40"], crop="random")
    raw = RawRow("k", "s", 0, encoded(slope(300, 60)), "x")
    rows = [decode_row(raw, config, 0, 0, offset, 0).pixels for offset in range(12)]
    starts = {round(float(row[0, :, 0].mean()), 2) for row in rows}
    assert all(row.shape == (3, 40, 96) for row in rows) and len(starts) > 6
    ends = [(float(row[1, 0].mean()), float(row[1, -1].mean())) for row in rows]
    assert all(top < -0.9 and bottom > 0.9 for top, bottom in ends), "whole from top to bottom"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("orientation", [None, 3, 6, 8])
def test_the_header_says_how_large_the_upright_picture_is(kind: str, orientation: int | None) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    data = encoded(slope(40, 24), kind, **options)
    assert upright_size(data) == decode_image(data, DataConfig(path="x")).size
    assert upright_size(data[:8]) is None and upright_size(b"") is None


def test_strips_cost_no_more_than_their_shape() -> None:
    config = DataConfig(path="x", resolution=64, buckets="auto")
    for size in ((50_000, 1), (1, 50_000)):
        row = decode_row(RawRow("k", "s", 0, encoded(Image.new("RGB", size, "red")), "x"), config, 0, 0, 0, 0)
        height, width = row.pixels.shape[1:]
        assert math.isclose(max(height, width) / min(height, width), 2.4)
