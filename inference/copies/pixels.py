"""The pixels of training images at the size at which they are compared, decoded as training rows are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import BadSample, decode_row
from memsieve.filtering.data.rows import RawRow, content_id
from memsieve.filtering.data.shards import read_shard

__all__ = ["load_pixels", "pixel_chunks"]


def load_pixels(data: bytes, side: int, name: str = "image") -> Tensor:
    """Encoded bytes as float32 [3, side, side] in [-1, 1], decoded as training rows are.

    Raises:
        BadSample: not an image, damaged, or over a limit.
    """
    config = DataConfig(path=name, resolution=side)
    return decode_row(RawRow(key=name, shard="", index=0, image=data), config, 0, 0, 0, 0).pixels


def pixel_chunks(shard: str, side: int, chunk: int) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
    """Rows of a shard, unusable ones with their error, and the pixels [n, 3, side, side] of the usable ones."""
    config = DataConfig(path=shard, resolution=side, allow_empty_caption=True)
    rows: list[dict[str, Any]] = []
    pixels: list[Tensor] = []
    for raw in read_shard(shard, config):
        row: dict[str, Any] = {
            "key": raw.key,
            "shard": raw.shard,
            "index": raw.index,
            "error": None,
            "caption": raw.caption,
        }
        try:
            pixels.append(decode_row(raw, config, 0, 0, 0, 0).pixels)
            row["group"] = content_id(raw.image)
        except BadSample as error:
            row["error"] = f"{raw.key}: {error}"
        rows.append(row)
        if len(rows) == chunk:
            yield rows, torch.stack(pixels) if pixels else torch.empty(0, 3, side, side)
            rows, pixels = [], []
    if rows:
        yield rows, torch.stack(pixels) if pixels else torch.empty(0, 3, side, side)
