"""Shards of plain pictures, and one stream over a source."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import webdataset as wds
from PIL import Image

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.dealing import measure_parts
from memsieve.filtering.data.rows import Chunk
from memsieve.filtering.data.sources import Source
from memsieve.filtering.data.streams import ReadingPlan, RowStream, Start


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(stream, "PNG")
    return stream.getvalue()


def write_shards(folder: Path, sizes: list[int], bad: tuple[int, ...] = ()) -> str:
    folder.mkdir(exist_ok=True)
    number = 0
    for shard, size in enumerate(sizes):
        with wds.TarWriter(str(folder / f"{shard}.tar")) as writer:
            for _ in range(size):
                image = b"broken" if number in bad else png(number)
                writer.write({"__key__": f"{number:03d}", "png": image, "txt": f"number {number}"})
                number += 1
    return str(folder)


def config(path: str = "unused", **values: Any) -> DataConfig:
    return DataConfig(**{"path": path, "resolution": 8, "held_out_fraction": 0.0, "shuffle_buffer": 4, **values})


def open_stream(
    source: Source,
    data: DataConfig,
    stream: int = 0,
    n_streams: int = 1,
    seed: int = 0,
    held_out_groups: frozenset[str] | None = None,
    alive: Callable[[], None] = lambda: None,
    **start: Any,
) -> RowStream:
    plan = ReadingPlan(source, data, measure_parts(source, n_streams), n_streams, seed, held_out_groups)
    return RowStream(plan, stream, Start(**start), alive=alive)


def keys(chunk: Chunk) -> list[int]:
    return [int(row.key) for row in chunk.rows]
