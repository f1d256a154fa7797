"""Smooth random pictures in shards, which resizing leaves recognisable."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image


def picture(number: int, size: int = 40) -> bytes:
    """A smooth random PNG: blobs of colour, so that resizing leaves it recognisable."""
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(stream, "PNG")
    return stream.getvalue()


def write(folder: Path, numbers: list[int], per_shard: int = 10, broken: bool = False) -> Path:
    folder.mkdir(parents=True)
    for shard, start in enumerate(range(0, len(numbers), per_shard)):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as tar:
            for i, number in enumerate(numbers[start : start + per_shard], start):
                tar.write({"__key__": f"k{i:03d}", "png": picture(number), "txt": f"caption {number} <b>".encode()})
            if broken and shard == 0:
                tar.write({"__key__": "bad", "png": b"no image", "txt": b"x"})
    return folder


def write_data(folder: Path) -> Path:
    """28 training pictures, three of them copies of one, a broken one, and 25 held-out pictures."""
    write(folder / "train", [*range(25), 3, 3, 3], broken=True)
    write(folder / "held", list(range(100, 125)))
    return folder
