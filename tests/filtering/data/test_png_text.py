"""PNGs with more text than Pillow reads."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from memsieve.filtering.data.decode import BadSample, decode_image
from memsieve.filtering.data.png_text import without_large_text
from tests.filtering.data.flat_images import config, decode, encode, levels


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [2**20 + 1, 2**22])
def test_png_with_a_large_text_is_read_without_it(size: int, packed: bool) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a small one")
    info.add_text("workflow", "x" * size, zip=packed)
    info.add_itxt("prompt", "y" * size, zip=packed)
    assert levels(encode(Image.new("RGB", (8, 8), (10, 20, 30)), pnginfo=info)) == [10, 20, 30]


def test_png_with_a_large_colour_profile_is_read_and_keeps_its_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = np.random.default_rng(0).bytes(2**20) + bytes(2**20)
    data = encode(Image.new("RGB", (16, 8), (10, 20, 30)), icc_profile=profile, exif=exif)
    upright = decode_image(data, config())
    assert (upright.size, upright.getpixel((0, 0))) == ((8, 16), (10, 20, 30))


def test_png_whose_texts_are_many_is_read() -> None:
    info = PngImagePlugin.PngInfo()
    packed = zlib.compress(bytes(2**18 - 9))
    for number in range(300):
        info.add(b"zTXt", b"k%d\0\0" % number + packed)  # 75 MiB in all, beyond what PIL takes
    assert levels(encode(Image.new("RGB", (8, 8), (10, 20, 30)), pnginfo=info)) == [10, 20, 30]


def test_leaving_text_out_does_not_mend_what_is_damaged() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 2**21, zip=True)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, pnginfo=info)
    with pytest.raises(BadSample, match="truncated|corrupt|damaged|opened"):
        decode(data[: len(data) // 2])
    assert without_large_text(data[:100]) is None and without_large_text(b"GIF89a") is None
    assert without_large_text(encode(noise)) is None
    assert without_large_text(data[:8] + bytes(12) * 100_000) is None
