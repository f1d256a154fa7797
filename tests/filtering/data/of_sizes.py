"""Pictures of several aspect ratios, in shards and in a folder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import webdataset as wds
from PIL import Image

from memsieve.filtering.data.config import DataConfig

BUCKETS = ["16x16", "20x12", "12x20"]
SIZES = [(32, 32), (40, 24), (24, 40), (32, 30), (64, 33), (40, 24), (32, 32), (8, 24), (36, 32), (30, 32)]
"""Width and height: five in ten for the square, three lying, two standing."""


def picture(number: int, side: int = 1) -> bytes:
    """Picture ``number``, of the size that is its turn, each pixel another colour."""
    width, height = SIZES[number % len(SIZES)]
    image = Image.linear_gradient("L").resize((width * side, height * side))
    shade = Image.new("L", image.size, number % 256)
    stream = io.BytesIO()
    Image.merge("RGB", (image, image.transpose(Image.Transpose.ROTATE_90).resize(image.size), shade)).save(
        stream, "PNG"
    )
    return stream.getvalue()


def write_shards(folder: Path, count: int, shards: int = 8, broken: int = -1, first: int = 0) -> str:
    """``count`` pictures from number ``first`` on in ``shards`` shards; ``broken`` is none that can be decoded."""
    for shard in range(shards):
        with wds.TarWriter(str(folder / f"{shard}.tar")) as writer:
            for number in range(first + count * shard // shards, first + count * (shard + 1) // shards):
                image = b"broken" if number == broken else picture(number)
                writer.write({"__key__": f"{number:03d}", "png": image, "txt": f"number {number}"})
    return str(folder)


def write_folder(folder: Path, count: int) -> str:
    """``count`` pictures as files."""
    for number in range(count):
        (folder / f"{number:03d}.png").write_bytes(picture(number))
        (folder / f"{number:03d}.txt").write_text(f"number {number}")
    return str(folder)


def config(path: str, **values: Any) -> DataConfig:
    defaults = {"path": path, "resolution": 16, "buckets": BUCKETS, "held_out_fraction": 0.0, "shuffle_buffer": 5,
                "crop": "random", "streams": 4}  # fmt: skip
    return DataConfig(**{**defaults, **values})
