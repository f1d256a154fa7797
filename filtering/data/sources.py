"""One face for every kind of source, and the choice between them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Container, Iterator
from typing import Protocol

from fsspec.core import url_to_fs

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.folder.source import FolderSource
from memsieve.filtering.data.hf import HFSource
from memsieve.filtering.data.keep_list import KeepList
from memsieve.filtering.data.kept_source import KeptSource
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.data.shard_paths import expand_paths
from memsieve.filtering.data.shards import read_shard

_SAY_AFTER = 10.0
"""Seconds of counting between two signs of it."""
_log = logging.getLogger(__name__)

__all__ = ["ShardSource", "Shards", "Source", "open_source"]


class Source(Protocol):
    """Rows in parts: a shard is a part of many rows, a row of a map-style source is a part of its own."""

    indexed: bool
    """True where every part is exactly one row, reachable without reading those before it."""
    identity: list[str]
    """The paths or names that the rows come from, in order."""

    def __len__(self) -> int:
        """Number of parts."""
        ...

    def read(self, part: int) -> Iterator[RawRow]:
        """The rows of one part, in order."""
        ...

    def count_rows(self) -> int:
        """Rows in all parts, unusable ones included, without decoding any."""
        ...


class Shards(Source, Protocol):
    """A source whose parts are shards of many rows, of which stretches can be read."""

    def read(
        self,
        part: int,
        start: int = 0,
        stop: int | None = None,
        *,
        only: Container[int] | None = None,
        bodies: bool = True,
    ) -> Iterator[RawRow]:
        """The rows of one shard, in order.

        Args:
            start, stop: of the shard's rows, those that are given; to its end where ``stop`` is None.
            only: give no row whose ``index`` is not among these.
            bodies: False gives the same rows by their headers alone, with nothing in them.
        """
        ...

    def part_rows(self, most: int) -> list[int] | None:
        """Rows of each shard; None where counting would mean reading them, or where there are more than ``most``."""
        ...

    def part_bytes(self) -> list[int]:
        """Size of each shard, in one unit for all of them."""
        ...


class ShardSource:
    """The shards of ``path`` as parts of a source: part ``i`` is the shard ``identity[i]``."""

    indexed = False

    def __init__(self, path: str | list[str], config: DataConfig, option: str = "data.path") -> None:
        self.identity = expand_paths(path, option, allow_pipe=config.allow_pipe)
        self.config = config
        self._counted: list[int] | None = None

    def __len__(self) -> int:
        return len(self.identity)

    def read(
        self,
        part: int,
        start: int = 0,
        stop: int | None = None,
        *,
        only: Container[int] | None = None,
        bodies: bool = True,
    ) -> Iterator[RawRow]:
        """The rows of one shard, in file order."""
        return read_shard(self.identity[part], self.config, start, stop, only=only, bodies=bodies)

    def count_rows(self) -> int:
        """Samples in all shards, by their headers."""
        return sum(self._counts())

    def part_rows(self, most: int) -> list[int] | None:
        """Samples of each shard, by the headers of shards on disk; elsewhere headers are no cheaper than the rest."""
        on_disk = all("://" not in path and not path.startswith("pipe:") for path in self.identity)
        return self._counts() if on_disk and len(self.identity) <= most else None

    def _counts(self) -> list[int]:
        if self._counted is None:
            counted: list[int] = []
            began = said = time.monotonic()
            for part in range(len(self)):
                counted.append(sum(1 for _ in self.read(part, bodies=False)))
                now, left = time.monotonic(), len(self) - len(counted)
                if left and now - said > _SAY_AFTER:
                    said, rest = now, (now - began) / len(counted) * left
                    _log.warning("counting samples: %d of %d shards, about %.0f s left", part + 1, len(self), rest)
            self._counted = counted
        return self._counted

    def part_bytes(self) -> list[int]:
        """Bytes of each shard; 1 for all where that is not known of every one."""
        try:
            return [_bytes(path) for path in self.identity]
        except (OSError, TypeError, ValueError):  # a server that does not say, or says no number
            return [1] * len(self)


def _bytes(path: str) -> int:
    if "://" in path:
        system, name = url_to_fs(path)
        return int(system.info(name)["size"])
    return os.path.getsize(path)


def open_source(path: str | list[str], config: DataConfig, option: str = "data.path") -> Source:
    """The source at ``path`` in the format that ``config`` names, less what its keep-list does not keep.

    Raises:
        SettingsError: nothing usable is there; the message names ``option`` and its value.
    """
    source: Source
    if config.format == "folder":
        source = FolderSource(path, config, option)
    elif config.format == "hf":
        source = HFSource(path, config, option)
    else:
        source = ShardSource(path, config, option)
    return source if config.keep_list is None else KeptSource(source, KeepList(config.keep_list))
