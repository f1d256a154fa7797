"""The pixels of training images at the size at which they are compared, decoded as training rows are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import BadSample, decode_row
from memsieve.filtering.data.named import kind_of
from memsieve.filtering.data.rows import RawRow, content_id
from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.data.sources import open_source

__all__ = ["load_pixels", "pixel_chunks", "rows_of"]


def load_pixels(data: bytes, side: int, name: str = "image") -> Tensor:
    """Encoded bytes as float32 [3, side, side] in [-1, 1], decoded as training rows are.

    Raises:
        BadSample: not an image, damaged, or over a limit.
    """
    config = DataConfig(path=name, resolution=side)
    return decode_row(RawRow(key=name, shard="", index=0, image=data), config, 0, 0, 0, 0).pixels


def rows_of(path: str, config: DataConfig) -> Iterator[RawRow]:
    """The samples of one shard, or of an image folder or Hugging Face dataset on disk: ``shard`` is then its path, and
    ``index`` the place of the sample in it."""
    if not Path(path).is_dir():
        yield from read_shard(path, config)
        return
    source = open_source(path, config.model_copy(update={"format": kind_of(Path(path))}), "--data")
    for part in range(len(source)):
        yield from (replace(raw, shard=path, index=part) for raw in source.read(part))


def pixel_chunks(shard: str, side: int, chunk: int) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
    """Rows of a shard or folder (``rows_of``), unusable ones with their error, and the pixels [n, 3, side, side] of the
    usable ones."""
    config = DataConfig(path=shard, resolution=side, allow_empty_caption=True)
    rows: list[dict[str, Any]] = []
    pixels: list[Tensor] = []
    for raw in rows_of(shard, config):
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
