"""Pictures from untrusted bytes: what is taken, and what is refused with a reason."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from memsieve.filtering.data.decode import BadSample, decode_image, decode_row, from_levels, group_of, to_picture
from memsieve.filtering.data.rows import RawRow, content_id
from tests.filtering.data.flat_images import config, decode, encode, levels


def gradient(width: int, height: int) -> Image.Image:
    values = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3) % 251
    return Image.fromarray(values.astype(np.uint8))


def test_row_fields_and_pixels_exact_at_native_size() -> None:
    image = gradient(8, 8)
    data = encode(image)
    row = decode(data, offset=5)
    assert (row.key, row.shard, row.index, row.caption) == ("k", "s", 3, "a cat")
    assert (row.stream, row.epoch, row.offset, row.group) == (1, 2, 5, content_id(data))
    expected = torch.from_numpy(np.asarray(image).astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
    assert torch.equal(row.pixels, expected)
    assert row.pixels.is_contiguous()
    assert (float(decode(encode(Image.new("RGB", (8, 8), "white"))).pixels.min())) == 1.0
    assert (float(decode(encode(Image.new("RGB", (8, 8), "black"))).pixels.max())) == -1.0


def test_group_by_key() -> None:
    raw = RawRow("k", "s", 0, b"x")
    assert group_of(raw, config(group_by="key")) == "k"
    assert group_of(raw, config()) == content_id(b"x")


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, [100, 100, 100]),
        ("1", 1, [255, 255, 255]),
        ("RGBA", (200, 100, 0, 255), [200, 100, 0]),
        ("RGBA", (0, 0, 0, 0), [255, 255, 255]),
        ("RGBA", (0, 100, 200, 127), [128, 178, 228]),
        ("LA", (0, 0), [255, 255, 255]),
        ("I;16", 128 * 257, [128, 128, 128]),
        ("I;16", 65535, [255, 255, 255]),
    ],
)
def test_png_modes(mode: str, colour: Any, expected: list[int]) -> None:
    assert levels(encode(Image.new(mode, (8, 8), colour))) == expected


def test_palette_cmyk_and_transparent_colours() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert levels(encode(palette)) == [10, 20, 30]
    assert levels(encode(palette, transparency=1)) == [255, 255, 255]
    assert levels(encode(Image.new("RGB", (8, 8), (1, 2, 3)), transparency=(1, 2, 3))) == [255, 255, 255]
    cmyk = levels(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert cmyk == pytest.approx([255, 0, 0], abs=3)
    assert levels(encode(Image.new("I;16", (8, 8), 25700), "TIFF")) == [100, 100, 100]
    with pytest.raises(BadSample, match="floating-point"):
        decode(encode(Image.new("F", (8, 8), 0.5), "TIFF"))
    with pytest.raises(BadSample, match="32-bit"):
        decode(encode(Image.new("I", (8, 8), 70000), "TIFF"))


@pytest.mark.parametrize(("mode", "value", "expected"), [("I", 200, 200), ("I", 255, 255), ("I", 51400, 200)])
def test_32_bit_pixels_are_scaled_by_their_values(mode: str, value: int, expected: int) -> None:
    assert levels(encode(Image.new(mode, (8, 8), value), "TIFF")) == [expected] * 3


def test_16_bit_pixels_are_scaled_by_their_mode_however_dark() -> None:
    assert levels(encode(Image.new("I;16", (8, 8), 200), "TIFF")) == [1, 1, 1]


def test_exif_rotation() -> None:
    image = Image.new("RGB", (16, 8), "black")
    image.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise shows it upright
    upright = decode_image(encode(image, "PNG", exif=exif), config())
    assert upright.size == (8, 16)
    assert (upright.getpixel((4, 2)), upright.getpixel((4, 13))) == ((255, 255, 255), (0, 0, 0))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert levels(data) == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_and_corrupt(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, kind)
    with pytest.raises(BadSample, match="truncated|corrupt|damaged|opened"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_not_an_image(data: bytes) -> None:
    with pytest.raises(BadSample, match="image"):
        decode(data)


def test_formats_outside_the_list_are_not_tried() -> None:
    with pytest.raises(BadSample, match="not one of JPEG, PNG, WEBP, GIF"):
        decode(encode(gradient(8, 8), "PPM"))


def test_errors_of_the_source_pass_through() -> None:
    with pytest.raises(BadSample, match="^no caption$"):
        decode_row(RawRow("k", "s", 0, error="no caption"), config(), 0, 0, 0, 0)


def test_pixel_bomb_is_refused_before_decoding() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    def bomb(side: int) -> bytes:
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")

    with pytest.raises(BadSample, match="2000 x 2000 pixels, over data.max_image_pixels = 1000000"):
        decode(bomb(2000), max_image_pixels=1_000_000)
    with pytest.raises(BadSample, match="cannot be opened"):
        decode(bomb(60000))
    with pytest.raises(BadSample, match="over data.max_image_bytes = 1024"):
        decode(b"x" * 2000, max_image_bytes=1024)


def test_shorter_side_is_resized_and_the_middle_kept() -> None:
    for width, height in ((48, 16), (37, 16)):
        image = gradient(width, height)
        resized = image.resize((round(width / 2), 8), Image.Resampling.LANCZOS)
        left = (resized.width - 8) // 2
        cropped = np.asarray(resized.crop((left, 0, left + 8, 8))).astype(np.float32)
        wide_pixels = decode(encode(image)).pixels
        # One step in place of two; where the width rounds (37 / 2) the two differ by part of a pixel.
        if width == 48:
            assert torch.equal(wide_pixels, torch.from_numpy(cropped).permute(2, 0, 1) / 127.5 - 1)
        tall = image.transpose(Image.Transpose.TRANSPOSE)
        # Pillow before 13 rounds and clips between the two directions: turned images differ by some steps of 255.
        apart = (decode(encode(tall)).pixels - wide_pixels.transpose(1, 2)).abs() * 127.5
        assert apart.mean() < 1.5 and apart.max() < 12
    wide = gradient(14, 8)
    middle = np.asarray(wide)[:, 3:11].astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
    assert torch.allclose(decode(encode(wide)).pixels, torch.from_numpy(middle))


@pytest.mark.parametrize("size", [(20000, 1), (1, 20000), (9, 8), (8, 9), (1000, 333), (3, 2)])
@pytest.mark.parametrize("crop", ["center", "random"])
def test_odd_shapes(size: tuple[int, int], crop: str) -> None:
    pixels = decode(encode(Image.new("RGB", size, (10, 20, 30))), crop=crop).pixels
    assert pixels.shape == (3, 8, 8)
    assert [round(float(v)) for v in (pixels.mean((1, 2)) + 1) * 127.5] == [10, 20, 30]


def test_random_crop_and_flip_are_functions_of_the_position() -> None:
    data = encode(gradient(40, 8))
    first = [decode(data, offset, crop="random").pixels for offset in range(16)]
    again = [decode(data, offset, crop="random").pixels for offset in reversed(range(16))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    starts = {tuple(pixels[0, 0].tolist()) for pixels in first}
    assert len(starts) > 8
    flipped = [decode(data, offset, crop="random", flip=True).pixels for offset in range(16)]
    same = [torch.equal(a, b) for a, b in zip(first, flipped, strict=True)]
    mirrored = [torch.equal(a.flip(2), b) for a, b in zip(first, flipped, strict=True)]
    assert [a != b for a, b in zip(same, mirrored, strict=True)] == [True] * 16
    assert 2 <= sum(mirrored) <= 14
    assert not torch.equal(decode(data, 0, seed=1, crop="random").pixels, first[0])


def test_a_picture_of_pixels_has_their_levels_and_nothing_beyond() -> None:
    drawn = torch.randint(0, 256, (3, 5, 7), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    picture = to_picture(from_levels(drawn))
    assert picture.size == (7, 5) and np.array_equal(np.asarray(picture).transpose(2, 0, 1), drawn.numpy())
    assert to_picture(torch.full((3, 1, 2), 3.0)).getpixel((1, 0)) == (255, 255, 255)
