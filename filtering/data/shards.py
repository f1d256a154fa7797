"""WebDataset tar shards: the rows in one of them, none lost silently.

webdataset's own iterators read a member whole before its size is known, skip links, and end quietly at a cut-off
archive; here its naming rule (``base_plus_ext``) is kept and the tar is walked header by header instead.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final, cast

from webdataset.tariterators import base_plus_ext

from memsieve.filtering.data.archives import DAMAGE, is_damage, open_archive, open_tar
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.fields import printable
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.data.shard_samples import Sample, add_member, row_of

__all__ = ["LOST", "read_shard"]

LOST: Final = ("truncated", "unreachable", "changed")
"""The status of a row that stands for all of a shard from there on."""
_META: Final = re.compile(r"__[^/]*__($|/)")


def read_shard(
    path: str,
    config: DataConfig,
    start: int = 0,
    stop: int | None = None,
    *,
    only: Container[int] | None = None,
    bodies: bool = True,
) -> Iterator[RawRow]:
    """The samples of one shard (local path or fsspec URL), in order; ``index`` counts them.

    A sample that cannot be read whole is a row with ``error``; so is the point where a truncated shard ends, and where
    a shard ends or fails before ``start``, or ends before ``stop``: it has changed since it was counted. Nothing is
    extracted to disk, so a member's name is only ever a label.

    Args:
        start, stop: samples before ``start`` are passed by their headers; ``stop`` is not reached.
        only: so are those whose ``index`` is not among these.
        bodies: False gives the same rows, but by their headers alone and with nothing in them.
    """
    wanted = _Wanted(start, stop, only)
    count = 0
    for row in _scan(path, config, wanted, bodies):
        if wanted.is_past(row.index):
            return
        count = row.index + 1
        if row.index in wanted or (row.index < start and row.status in LOST and wanted.is_asked(row.index)):
            yield row
        if row.status in LOST:
            return
    if count < (start if stop is None else stop) and wanted.is_asked(count):
        error = f"shard '{path}' has no sample {count} any more, though it was counted: it has changed"
        yield RawRow(key="", shard=path, index=count, error=printable(error), status="changed")


@dataclass(frozen=True, slots=True)
class _Wanted:
    start: int
    stop: int | None
    only: Container[int] | None

    def __contains__(self, index: int) -> bool:
        return index >= self.start and not self.is_past(index) and self.is_asked(index)

    def is_asked(self, index: int) -> bool:
        return self.only is None or index in self.only

    def is_past(self, index: int) -> bool:
        return self.stop is not None and index >= self.stop


def _scan(path: str, config: DataConfig, wanted: _Wanted, bodies: bool) -> Iterator[RawRow]:
    """Rows of a shard. Those that are not ``wanted``, or all without ``bodies``, hold nothing but their names."""
    index = 0
    seen: set[str] = set()
    sample: Sample | None = None
    try:
        with open_archive(path, config.allow_pipe) as file, open_tar(file) as tar:
            while (info := tar.next()) is not None:
                # The list of members is kept for random access, and would hold every header of the shard.
                cast("Any", tar).members = []
                key, suffix = base_plus_ext(info.name)
                if key is None or info.isdir() or _META.match(info.name):
                    continue
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield row_of(sample, path, index, config)
                        index += 1
                        if wanted.is_past(index):
                            return
                    sample = Sample(key, bodies and index in wanted, start=info.offset)
                    if key in seen:
                        sample.error = f"key '{key}' came before in this shard: the files of a sample must be adjacent"
                    seen.add(key)
                sample.partial = True
                add_member(sample, tar, file, info, suffix.lower(), config)
                sample.partial = False
                sample.end = tar.offset
            # tarfile takes a cut between two members, or inside a header, for the end of the archive.
            archive = cast("IO[bytes]", tar.fileobj)
            archive.seek(tar.offset)
            if archive.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("there is no end-of-archive mark")
    except DAMAGE as error:
        if sample is not None and not sample.partial and _is_whole(sample, path, index, config):
            yield row_of(sample, path, index, config)
            index, sample = index + 1, None
        key = printable(sample.key) if sample is not None else ""
        message = f"shard '{path}' cannot be read to its end, it is truncated or damaged: {error}"
        status = "truncated"
        if not is_damage(error):
            message, status = f"shard '{path}' cannot be read: {error}", "unreachable"
        yield RawRow(key=key, shard=path, index=index, error=printable(message), status=status)
        return
    if sample is not None:
        yield row_of(sample, path, index, config)


def _is_whole(sample: Sample, path: str, index: int, config: DataConfig) -> bool:
    """Whether the last sample before a cut can be used without what is lost; else the two are one row."""
    row = row_of(sample, path, index, config) if sample.read else next(read_shard(path, config, index, index + 1))
    return row.error is None
