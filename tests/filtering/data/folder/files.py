"""Image folders as people have them, and what a source makes of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from memsieve.filtering.data.folder.source import FolderSource
from memsieve.filtering.data.rows import RawRow
from tests.filtering.data.samples import config


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def short(row: RawRow) -> tuple[str, str, int, bytes, str | None]:
    return (row.key, row.shard, row.index, row.image, row.error if row.error else row.caption)


def png(kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(stream, kind)
    return stream.getvalue()


def captions(source: FolderSource) -> dict[str, str | None]:
    """Caption by key, or the error in its place."""
    rows = [source.row(i) for i in range(len(source))]
    return {row.key: row.error or row.caption for row in rows}


def source_of(root: Path, files: dict[str, bytes | str], **values: Any) -> FolderSource:
    return FolderSource(str(write(root, files)), config(**values))
