"""What a rank has read of each group: a sample of it on disk, sixteen bytes and a place in memory.

A run reads millions of groups, and asks for the key and caption of a few suspects, and of all once, at its end.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from memsieve.filtering.evidence.key_index import Names
from memsieve.filtering.types import group_name

__all__ = ["GroupCounts", "SeenSamples", "read_seen"]

PART: Final = 16_384
_DIGEST: Final = 16
_TOLD: Final = ("group", "key", "shard", "caption")
_SCHEMA: Final = pa.schema([("digest", pa.binary(_DIGEST)), *((name, pa.string()) for name in _TOLD)])
_NAME: Final = re.compile(r"^(\d{12})\.parquet$")


class SeenSamples:
    """The first sample that this rank read of each group: ``folder/FIRST.parquet``, parts in the order of reading.

    Memory holds a digest of each group (see ``Names``) and the samples that are not written yet; a checkpoint holds how
    many there are.

    Args:
        folder: this rank's own.
        resumed: parts stay until ``load_state_dict`` says which count; else they are those of a run that began anew.
        part: samples that are kept in memory before they are written.
    """

    def __init__(self, folder: Path, resumed: bool = False, part: int = PART) -> None:
        self.folder, self.part = folder, part
        self._names = Names()
        self._pending: list[tuple[bytes, str, str, str, str]] = []
        self._starts: list[int] = []
        if not resumed:
            for _, path in _parts(folder):
                path.unlink()

    def __len__(self) -> int:
        return len(self._names)

    def note(self, group: str, key: str, shard: str, caption: str) -> None:
        """A sample of ``group`` was read; the first one is kept."""
        name = group_name(group)
        digest, known = _digest(name), len(self._names)
        if self._names.add(digest.hex()) < known:
            return
        self._pending.append((digest, name, key, shard, caption))
        if len(self._pending) >= self.part:
            self.flush()

    def find(self, groups: Iterable[str]) -> dict[str, list[str]]:
        """Those of ``groups`` (names as ``group_name`` gives them) that were read: group -> key, shard, caption."""
        rows = {name: self._names.row(_digest(name).hex()) for name in groups}
        return {name: self._sample(row) for name, row in rows.items() if row >= 0}

    def _sample(self, row: int) -> list[str]:
        written = len(self._names) - len(self._pending)
        if row >= written:
            return list(self._pending[row - written][2:])
        start = self._starts[bisect_right(self._starts, row) - 1]
        (found,) = pq.read_table(self._path(start)).slice(row - start, 1).to_pylist()
        return [found[name] for name in _TOLD[1:]]

    def flush(self) -> None:
        """Write what is not written yet as one part (temporary name, then rename)."""
        if not self._pending:
            return
        start = len(self._names) - len(self._pending)
        columns = zip(*self._pending, strict=True)
        table = pa.table([pa.array(c, t) for c, t in zip(columns, _SCHEMA.types, strict=True)], schema=_SCHEMA)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self._path(start).with_suffix(".tmp")
        pq.write_table(table, temporary)
        temporary.rename(self._path(start))
        self._starts.append(start)
        self._pending = []

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:012d}.parquet"

    def state_dict(self) -> dict[str, Any]:
        """How many samples count; they are written."""
        self.flush()
        return {"samples": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there: what was written afterwards belongs to work that is done again.

        Raises:
            ValueError: a part is missing.
        """
        samples, known = int(state["samples"]), 0
        keys: list[np.ndarray] = []
        self._pending, self._starts = [], []
        for start, path in _parts(self.folder):
            if start >= samples:
                path.unlink()
            elif start == known:
                digests = pq.read_table(path, columns=["digest"])["digest"].combine_chunks()
                keys.append(np.frombuffer(b"".join(digests.to_pylist()), dtype="<i8").reshape(-1, 2))
                self._starts.append(start)
                known += len(digests)
        if known != samples:
            raise ValueError(
                f"'{self.folder}' holds {known} of the {samples} samples that the checkpoint knows of: put its files "
                "back, or start a new run folder"
            )
        self._names = Names()
        if keys:
            self._names.load_state_dict({"keys": torch.from_numpy(np.concatenate(keys)), "others": {}})


def read_seen(folders: Iterable[Path]) -> pa.Table:
    """The samples of all ranks' folders, a row a group: of the first folder that has one."""
    parts = [pq.read_table(path, columns=list(_TOLD)) for folder in folders for _, path in _parts(folder)]
    table = pa.concat_tables(parts) if parts else _SCHEMA.empty_table().select(list(_TOLD))
    firsts = table.group_by("group", use_threads=False).aggregate([(name, "first") for name in _TOLD[1:]])
    return firsts.rename_columns([name.removesuffix("_first") for name in firsts.column_names])


class GroupCounts:
    """A count for each of some groups; the groups' names and four bytes."""

    def __init__(self) -> None:
        self.names = Names()
        self._counts: np.ndarray = np.zeros(0, dtype=np.int32)

    def add(self, groups: Iterable[str]) -> None:
        """Count each of ``groups`` once more."""
        for group in groups:
            self._count(group_name(group), 1)

    def _count(self, name: str, times: int) -> None:
        row = self.names.add(name)
        if row >= len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros(max(1024, row), dtype=np.int32)])
        self._counts[row] += times

    def join(self, state: dict[str, Any]) -> None:
        """Add what ``state_dict`` gave elsewhere."""
        other = GroupCounts()
        other.load_state_dict(state)
        for name, count in zip(other.names, other._counts.tolist(), strict=True):
            self._count(name, count)

    def table(self, name: str) -> pa.Table:
        """Columns ``group`` and ``name``."""
        counts = self._counts[: len(self.names)].astype(np.int64)
        return pa.table({"group": pa.array(list(self.names), pa.string()), name: pa.array(counts)})

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"names": self.names.state_dict(), "counts": torch.from_numpy(self._counts[: len(self.names)].copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        self.names = Names()
        self.names.load_state_dict(state["names"])
        self._counts = state["counts"].numpy().copy()


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=_DIGEST).digest()


def _parts(folder: Path) -> list[tuple[int, Path]]:
    """The number of a part's first sample, and the part, in order."""
    if not folder.is_dir():
        return []
    return sorted((int(match[1]), path) for path in folder.iterdir() if (match := _NAME.match(path.name)))
