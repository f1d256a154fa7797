"""Tar files by their members, and the rows that are read of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.shards import read_shard


def config(**values: Any) -> DataConfig:
    return DataConfig(**{"path": "unused", **values})


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def rows(path: str, **values: Any) -> list[tuple[str, int, bytes, str | None]]:
    """(key, index, image, caption) of good rows; the error in place of the caption for the others."""
    found = list(read_shard(path, config(**values)))
    assert all(row.shard == path for row in found)
    return [(row.key, row.index, row.image, row.error if row.error else row.caption) for row in found]


def pair(key: str, caption: str = "a cat") -> list[tuple[str, bytes]]:
    return [(f"{key}.jpg", b"image " + key.encode()), (f"{key}.txt", caption.encode())]
