"""What an audit is cut into: one task per shard, or per block of rows of a source without shards."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from memsieve.filtering.data.archives import shard_identity
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.folder.source import FolderSource
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.data.shard_paths import expand_paths
from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.data.sources import Source, open_source

__all__ = ["Task", "Tasks"]

BLOCK: Final = 1000
"""Rows per task where there are no shards."""


@dataclass(frozen=True, slots=True)
class Task:
    """One idempotent piece of work: a shard ``name``, or rows [start, stop) of a source without shards."""

    number: int
    name: str
    start: int = 0
    stop: int = 0

    @property
    def slug(self) -> str:
        """The stem of its files: readable, and apart from that of every other task."""
        stem = re.sub(r"[^0-9A-Za-z_.-]+", "_", self.name.rpartition("/")[2])[:60].lstrip("._") or "shard"
        return f"{stem}-{hashlib.blake2b(self.name.encode('utf-8', 'surrogateescape'), digest_size=6).hexdigest()}"


class Tasks:
    """The tasks of an audit's data, and the rows of each.

    Args:
        config: says what the data is.
        option: named in messages.
        known: tasks found before; shards are then not looked for again.

    Raises:
        SettingsError: nothing usable is at ``config.path``; the message names ``option``.
    """

    def __init__(self, config: DataConfig, option: str = "--data", known: list[Task] | None = None) -> None:
        self.config = config
        self._source: Source | None = None
        self.all: list[Task] = list(known or [])
        if known is not None and config.format == "webdataset":
            return
        if config.format == "webdataset":
            # Empty shards are for the audit to report, not to stop at.
            paths = expand_paths(config.path, option, allow_pipe=config.allow_pipe, allow_empty=True)
            self.all = [Task(number, path) for number, path in enumerate(dict.fromkeys(paths))]
        else:
            self._source = open_source(config.path, config.model_copy(update={"keep_list": None}), option)
            label = " ".join(self._source.identity)
            rows = len(self._source)
            blocks = [(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK)]
            self.all = [Task(i, f"{label}#{start}-{stop}", start, stop) for i, (start, stop) in enumerate(blocks)]

    @property
    def of_rows(self) -> bool:
        """Tasks are blocks of the rows of a dataset or a folder, and not shards."""
        return self._source is not None

    def size(self, task: Task) -> int:
        """Bytes of a local shard, for progress; 0 where unknown."""
        if self._source is not None or "://" in task.name or task.name.startswith("pipe:"):
            return 0
        return os.path.getsize(task.name)

    def read(self, task: Task) -> Iterator[tuple[int, RawRow]]:
        """(part of the source, row) for every row of ``task``, in order."""
        if self._source is None:
            yield from ((task.number, raw) for raw in read_shard(task.name, self.config))
            return
        for part in range(task.start, task.stop):
            yield from ((part, raw) for raw in self._source.read(part))

    def identity(self, task: Task) -> dict[str, Any]:
        """What tells whether the task's bytes are those that were read before.

        Raises:
            OSError: they are not there, or cannot be reached.
        """
        if self._source is None:
            return shard_identity(task.name)
        return {"rows": task.stop - task.start, "fingerprint": _fingerprint(self._source, task)}


def _fingerprint(source: Source, task: Task) -> str:
    """Of a dataset: its own. Of a folder: names, sizes and times of the block's images and captions."""
    if not isinstance(source, FolderSource):
        return str(getattr(source, "fingerprint", ""))
    digest = hashlib.sha256()
    if len(source) < task.stop:
        digest.update(b"rows of the block are gone\n")
    for part in range(task.start, min(task.stop, len(source))):
        for file in source.files(part):
            digest.update(f"{file}\0{_stamp(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _stamp(file: Path) -> str:
    found = file.stat() if file.is_file() else None
    return "" if found is None else f"{found.st_size}:{found.st_mtime_ns}"
