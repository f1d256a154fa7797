"""One face for every kind of source, and the choice between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from filtering.data.config import DataConfig
from filtering.data.folder import FolderSource
from filtering.data.hf import HFSource
from filtering.data.keep_list import KeepList, KeptSource
from filtering.data.rows import RawRow
from filtering.data.shards import count_shard, expand_paths, read_shard

__all__ = ["ShardSource", "Source", "open_source"]


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


class ShardSource:
    """The shards of ``path`` as parts of a source: part ``i`` is the shard ``identity[i]``."""

    indexed = False

    def __init__(self, path: str | list[str], config: DataConfig, option: str = "data.path") -> None:
        self.identity = expand_paths(path, option, allow_pipe=config.allow_pipe)
        self.config = config

    def __len__(self) -> int:
        return len(self.identity)

    def read(self, part: int) -> Iterator[RawRow]:
        """The rows of one shard, in file order."""
        return read_shard(self.identity[part], self.config)

    def count_rows(self) -> int:
        """Samples in all shards, by their headers."""
        return sum(count_shard(path, self.config.allow_pipe) for path in self.identity)


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
