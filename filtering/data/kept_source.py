"""A source that reads past the rows that a keep-list does not keep."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from memsieve.filtering.data.keep_list import NO_ROWS, KeepList, KeptRows
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.data.shards import LOST
from memsieve.filtering.settings import SettingsError

__all__ = ["KeptSource"]


class KeptSource:
    """A source without the rows that a keep-list does not keep: what it reads is what the shards of ``memsieve audit
    apply`` hold, in the same order.

    Shards are read past the rows that are not kept. In sources without shards such rows are not read at all.
    """

    def __init__(self, source: Any, keep: KeepList) -> None:
        self.source, self.keep = source, keep
        self.indexed: bool = source.indexed
        self.identity: list[str] = [*source.identity, f"keep-list {keep.hash}"]
        self._parts: np.ndarray[Any, Any] | None = None
        self._empty: set[str] = set()
        if keep.sharded == self.indexed:
            raise SettingsError(
                f"data.keep_list = '{keep.path}' was made of an audit of data.format = '{keep.about['data']['format']}'"
            )
        if self.indexed:
            rows = keep.rows()
            if len(rows.keep) != len(source):
                raise SettingsError(
                    f"data.keep_list = '{keep.path}' was made of {len(rows.keep)} rows, but the data has "
                    f"{len(source)}; audit it again"
                )
            self._parts = np.flatnonzero(rows.keep)
            if not len(self._parts):
                raise SettingsError(f"data.keep_list = '{keep.path}' keeps no row")
        else:
            for part, name in enumerate(source.identity):
                self._find(part, name)

    def _find(self, part: int, name: str) -> None:
        try:
            self.keep.rows(name)
        except SettingsError:
            if next(self.source.read(part, bodies=False), None) is not None:
                raise
            self._empty.add(name)  # a shard without samples has no row in any audit

    def _rows(self, name: str) -> KeptRows:
        return NO_ROWS if name in self._empty else self.keep.rows(name)

    def rows_of(self, part: int) -> KeptRows:
        """What the list says of the rows of a shard."""
        return self._rows(self.source.identity[part])

    def __len__(self) -> int:
        return len(self.source) if self._parts is None else len(self._parts)

    def count_rows(self) -> int:
        """Rows that are kept."""
        if self._parts is not None:
            return len(self._parts)
        return sum(int(self._rows(name).keep.sum()) for name in self.source.identity)

    def part_rows(self, most: int) -> list[int] | None:
        """Rows of each shard that are kept: the list knows them, wherever the shards lie."""
        return [int(self._rows(name).keep.sum()) for name in self.source.identity]

    def part_bytes(self) -> list[int]:
        """Those of the whole shards."""
        sizes: list[int] = self.source.part_bytes()
        return sizes

    def read(
        self,
        part: int,
        start: int = 0,
        stop: int | None = None,
        *,
        only: Container[int] | None = None,
        bodies: bool = True,
        note: Callable[[str], None] | None = None,
    ) -> Iterator[RawRow]:
        """The kept rows of one part; ``note`` is told the reason of each row that is read past.

        ``start`` and ``stop`` count kept rows; what lies between two kept rows is read past with the first of them. A
        row that the audit did not see, or saw with another image, is a row with ``error``; so is what lies behind a
        damage that the audit did not see.
        """
        if self._parts is not None:
            place = int(self._parts[part])
            yield from (self.keep.check(self.keep.rows(), place, raw) for raw in self.source.read(place))
            return
        rows = self._rows(self.source.identity[part])
        kept = np.flatnonzero(rows.keep)
        first = int(kept[start]) if 0 < start < len(kept) else 0 if start == 0 else len(rows.keep)
        last = int(kept[stop]) if stop is not None and stop < len(kept) else None
        end, whole = len(rows.keep), False
        for raw in self.source.read(part, first, last, only=only, bodies=bodies):
            whole |= raw.index >= end - 1 or raw.status in LOST
            if raw.index >= end:
                yield replace(raw, image=b"", caption=None, error="the audit has no such row; audit the shard again")
                continue
            reason = self.keep.reason(rows, raw.index)
            if reason is None or (raw.status in LOST and rows.keep[raw.index : last].any()):
                yield self.keep.check(rows, raw.index, raw)
            elif note is not None:
                note(reason)
        if end and last is None and not whole and (only is None or (end - 1 in only and end in only)):
            shard = self.source.identity[part]
            error = f"shard '{shard}' has fewer than the {end} rows that were audited; audit it again"
            yield RawRow("", shard, end, error=error, status="changed")

    def unread(self, stream: int, n_streams: int) -> list[str]:
        """The reasons of the rows that an epoch of one stream does not read, where there are no shards."""
        if self._parts is None:
            return []
        rows = self.keep.rows()
        away = np.flatnonzero(~rows.keep)[stream::n_streams]
        return [self.keep.reason(rows, int(place)) or "" for place in away]
