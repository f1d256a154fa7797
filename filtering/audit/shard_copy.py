"""One shard written anew: kept and rejected samples copied byte by byte, each into an archive of its own."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from memsieve.filtering.data.archives import open_archive, open_tar
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.fields import printable
from memsieve.filtering.data.keep_list import KeepList
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.files import write_whole
from memsieve.filtering.settings import SettingsError

__all__ = ["Audited", "ShardCopy"]

_END: Final = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True)
class Audited:
    """What a keep-list says, and how the data was read that it was made of."""

    keep: KeepList
    config: DataConfig
    details: dict[tuple[str, int], str]
    """By shard and index: why a row is not kept, in words."""


class ShardCopy:
    """Writes one shard's kept and rejected samples.

    Args:
        shard: as it was audited.
        out: where the kept samples go, under ``name``; the others to ``rejected/`` in it, reasons beside them.
    """

    def __init__(self, audited: Audited, shard: str, out: Path, name: str) -> None:
        self.audited, self.shard, self.name = audited, shard, name
        self.kept_path, self.rejected_path = out / name, out / "rejected" / name
        self.done_path = out / ".done" / f"{name}.json"
        self.rows = audited.keep.rows(shard)
        self.kept, self.lost, self.read = 0, 0, 0
        self.rejected: Counter[str] = Counter()
        self._reasons: list[str] = []

    def write(self) -> dict[str, Any]:
        """Copy the samples; the record of the shard for the manifest.

        Raises:
            SettingsError: the shard is not the one that was audited.
        """
        for path in (self.kept_path, self.rejected_path, self.done_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            # Raised errors leave no file behind under its own name.
            kept, rejected = (stack.enter_context(_Archive(p)) for p in (self.kept_path, self.rejected_path))
            source = stack.enter_context(open_archive(self.shard, self.audited.config.allow_pipe))
            self._copy(source, kept, rejected)
            if self.read != len(self.rows.keep):
                raise SettingsError(
                    f"shard '{self.shard}' has {self.read} samples, but {len(self.rows.keep)} were audited; audit it "
                    "again"
                )
        sizes = [self.kept_path.stat().st_size]
        if self.rejected:
            sizes.append(self.rejected_path.stat().st_size)
            write_whole(self.rejected_path.with_suffix(".jsonl"), "".join(self._reasons))
        else:
            self.rejected_path.unlink()
        record = {
            "shard": printable(self.shard), "name": self.name, "kept": self.kept, "rejected": dict(self.rejected),
            "lost": self.lost, "bytes": sizes,
        }  # fmt: skip
        write_whole(self.done_path, json.dumps(record) + "\n")
        return record

    def _copy(self, source: IO[bytes], kept: _Archive, rejected: _Archive) -> None:
        plain: Any = None
        for raw in read_shard(self.shard, self.audited.config):
            self._same(raw)
            reason = self.audited.keep.reason(self.rows, raw.index)
            if reason is not None:
                self.rejected[reason] += 1
                detail = self.audited.details.get((self.shard, raw.index), "")
                line = {"index": raw.index, "key": raw.key, "reason": reason, "detail": detail}
                self._reasons.append(json.dumps(line) + "\n")
            else:
                self.kept += 1
            if raw.span[1] <= raw.span[0]:
                self.lost += 1
                continue
            if plain is None:
                # Spans are of the uncompressed archive.
                plain = open_tar(source).fileobj
            (kept if reason is None else rejected).copy(plain, *raw.span)

    def _same(self, raw: RawRow) -> None:
        """Refuse a shard that is not the one that was audited."""
        self.read += 1
        if raw.index < len(self.rows.keep):
            kept = bool(self.rows.keep[raw.index])
            if self.audited.keep.check(self.rows, raw.index, raw) is raw and not (kept and raw.error is not None):
                return
        raise SettingsError(
            f"shard '{self.shard}': sample {raw.index} ('{raw.key}') is not what was audited; audit it again"
        )


class _Archive:
    """A tar file made of pieces of another one; appears under its name where nothing was raised."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> _Archive:
        self.file = self.temporary.open("wb")
        return self

    def copy(self, source: IO[bytes], start: int, end: int) -> None:
        """Append bytes [start, end) of ``source``."""
        source.seek(start)
        left = end - start
        while left:
            block = source.read(min(left, 2**20))
            if not block:
                raise SettingsError(f"'{self.path.name}': the shard ended while it was copied; audit it again")
            self.file.write(block)
            left -= len(block)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.file.write(_END)
                # Whole records of 20 blocks, as tar writes them.
                self.file.write(bytes(-self.file.tell() % tarfile.RECORDSIZE))
                self.file.flush()
                os.fsync(self.file.fileno())
            self.file.close()
            if kind is None:
                shutil.move(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)
