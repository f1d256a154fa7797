"""The row that an audit writes for every sample, and its Parquet file, whole or not there at all."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import imagehash
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from memsieve.filtering.data.fields import printable
from memsieve.filtering.data.rows import RawRow

__all__ = ["MEASURES", "SCORES_SCHEMA", "RowWriter", "content_of", "describe_image", "new_record"]

MEASURES: Final = ("loss", "magnitude", "loss_gap")
"""What is measured at every draw; see ``memsieve.filtering.signals``."""

SCORES_SCHEMA: Final = pa.schema(
    [
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("key", pa.string()),
        ("part", pa.int64()),
        ("uid", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("sha256", pa.string()),
        ("caption", pa.string()),
        ("caption_hash", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("image_bytes", pa.int64()),
        ("phash", pa.string()),
        ("n_draws", pa.int32()),
        ("timesteps", pa.list_(pa.int32())),
        *[(name, pa.list_(pa.float32())) for name in MEASURES],
        *[(f"{name}_{part}", pa.float32()) for name in MEASURES for part in ("mean", "se")],
        ("magnitude_max", pa.float32()),
    ]
)
"""One row per sample. An image is known by its *content*, the first 32 digits of ``sha256``, which is of the encoded
image: draws, groups, look-ups and truths go by it. ``uid`` is the data's own name of the sample, and decides nothing.
``timesteps`` and the measures hold a value per draw, null where epsilon space says nothing at that t; ``_se`` is the
standard error of the mean over draws."""

ROWS_PER_GROUP: Final = 1024


def content_of(sha256: str) -> str:
    """The content id of an image, out of its ``sha256`` in a row."""
    return sha256[:32]


def new_record(raw: RawRow, part: int) -> dict[str, Any]:
    """The row of a sample before it is scored."""
    uid = raw.meta.get("uid")
    record: dict[str, Any] = dict.fromkeys(SCORES_SCHEMA.names)
    record |= {"shard": printable(raw.shard), "index": raw.index, "key": raw.key, "part": part, "n_draws": 0}
    record |= {"status": raw.status, "error": raw.error}
    record["uid"] = uid if isinstance(uid, str) and len(uid) <= 64 and uid.isprintable() else None
    if raw.error is None:
        caption = raw.caption or ""
        record["sha256"] = hashlib.sha256(raw.image).hexdigest()
        record["image_bytes"] = len(raw.image)
        record["caption"] = caption
        record["caption_hash"] = hashlib.sha256(caption.encode()).hexdigest()[:32]
    return record


def describe_image(record: dict[str, Any], image: Image.Image) -> None:
    """Add size and perceptual hash (64-bit DCT hash, in hex) of a decoded image."""
    record["width"], record["height"] = image.size
    record["phash"] = str(imagehash.phash(image))


class RowWriter:
    """Writes rows to ``path`` under a temporary name, in row groups, so that memory does not grow with the shard.

    A context manager: the file appears under its own name, flushed to disk, only where nothing was raised. ``more`` are
    columns beside those of every audit.
    """

    def __init__(self, path: Path, metadata: dict[str, str], more: Sequence[pa.Field] = ()) -> None:
        self.path = path
        # Containers may share a host name and process numbers.
        mine = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.temporary = path.with_name(f".{path.stem}.{mine}.tmp")
        self._schema = pa.schema([*SCORES_SCHEMA, *more]).with_metadata(metadata)
        self._rows: list[dict[str, Any]] = []
        self.count = 0

    def __enter__(self) -> RowWriter:
        for leftover in self.path.parent.glob(f".{glob.escape(self.path.stem)}.*.tmp"):
            _remove_if_nobodys(leftover)
        self._file = _locked(self.temporary)
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        return self

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Append rows; those of a full row group are written."""
        self._rows += rows
        self.count += len(rows)
        while len(self._rows) >= ROWS_PER_GROUP:
            self._flush(ROWS_PER_GROUP)

    def _flush(self, count: int) -> None:
        rows, self._rows = self._rows[:count], self._rows[count:]
        self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None and (self._rows or not self.count):
                self._flush(len(self._rows))
            self._writer.close()
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
                self.temporary.replace(self.path)
        finally:
            self.temporary.unlink(missing_ok=True)
            self._file.close()


def _locked(path: Path) -> BinaryIO:
    """A new file that this process holds a lock on until it closes it, or ends however it ends."""
    while True:
        file = path.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        # Another process may have taken it for a leftover before it was locked.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
        file.close()


def _remove_if_nobodys(path: Path) -> None:
    """Remove a file that a killed process has left; one that is being written is another rank's, or another run's."""
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
