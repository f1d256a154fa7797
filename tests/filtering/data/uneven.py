"""Eight shards of other sizes, one sample of them broken."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import webdataset as wds
from PIL import Image

from memsieve.filtering.data.config import DataConfig

ROWS = 8


SIZES = [5, 3, 6, 4, 5, 2, 7, 4]


def write_uneven(folder: Path) -> str:
    """Shards of ``SIZES`` samples in ``folder``, which is returned; the tenth sample is broken."""
    number = 0
    for shard, size in enumerate(SIZES):
        with wds.TarWriter(str(folder / f"{shard}.tar")) as writer:
            for _ in range(size):
                stream = io.BytesIO()
                Image.new("RGB", (12, 8), (number, 0, 7)).save(stream, "PNG")
                image = b"broken" if number == 9 else stream.getvalue()
                writer.write({"__key__": f"{number:03d}", "png": image, "txt": f"number {number}"})
                number += 1
    return str(folder)


def config(path: str, **values: Any) -> DataConfig:
    defaults = {"path": path, "resolution": 8, "held_out_fraction": 0.1, "shuffle_buffer": 3, "crop": "random"}
    return DataConfig(**{**defaults, **values})
