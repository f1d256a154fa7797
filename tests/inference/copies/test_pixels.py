"""Pixels of shards come in chunks with their rows, the unusable ones named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import webdataset

from memsieve.filtering.data.decode import BadSample
from memsieve.inference.copies.pixels import load_pixels, pixel_chunks
from tests.inference.copies.pictures import picture


def test_chunks_hold_every_row_once(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as tar:
        for key, data in (("bad", b"no image"), *((f"k{i}", picture(i)) for i in range(5))):
            tar.write({"__key__": key, "png": data, "txt": b"x"})
    chunks = list(pixel_chunks(str(tmp_path / "0.tar"), 16, 4))
    assert [len(rows) for rows, _ in chunks] == [4, 2] and [len(pixels) for _, pixels in chunks] == [3, 2]
    rows = [row for part, _ in chunks for row in part]
    assert [row["key"] for row in rows] == ["bad", *(f"k{i}" for i in range(5))]
    assert [row["error"] is None for row in rows] == [False] + [True] * 5 and rows[0]["error"].startswith("bad: ")
    assert torch.equal(chunks[0][1][2], load_pixels(picture(2), 16))


def test_one_image() -> None:
    pixels = load_pixels(picture(1, 48), 24)
    assert pixels.shape == (3, 24, 24) and pixels.dtype == torch.float32 and -1 <= pixels.min() < pixels.max() <= 1
    with pytest.raises(BadSample):
        load_pixels(b"no image", 24)
