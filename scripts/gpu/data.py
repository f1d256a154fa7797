"""The pictures of the checks: distinct coloured waves with captions, as WebDataset shards or as an image folder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

__all__ = ["write_folder", "write_shards"]


def wave(number: int, side: int) -> bytes:
    """A PNG of ``side`` x ``side`` pixels that no other number gives."""
    y, x = np.mgrid[0:side, 0:side] / side
    rate = np.random.default_rng(number).uniform(1, 12, (3, 3))
    waves = np.stack([np.sin(rate[c, 0] * x + rate[c, 1] * y + rate[c, 2]) for c in range(3)], axis=-1)
    stream = io.BytesIO()
    Image.fromarray(((waves + 1) * 127.5).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_shards(folder: Path, count: int, side: int, first: int) -> None:
    """``count`` distinct pairs in one tar."""
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(folder / "00000.tar")) as tar:
        for number in range(first, first + count):
            tar.write({"__key__": f"{number:05d}", "png": wave(number, side), "txt": f"wave {number}".encode()})


def write_folder(folder: Path, count: int, side: int, first: int) -> None:
    """``count`` distinct pairs as datasets' ``imagefolder`` reads them."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(first, first + count):
        (folder / f"{number:05d}.png").write_bytes(wave(number, side))
        lines.append(json.dumps({"file_name": f"{number:05d}.png", "text": f"wave {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
