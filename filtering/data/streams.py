"""Endless, deterministic, resumable streams: each owns a fixed share of the source, whoever reads it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np

from filtering.data.config import DataConfig
from filtering.data.decode import BadSample, decode_row, group_of
from filtering.data.draws import row_generator
from filtering.data.held_out import is_held_out
from filtering.data.keep_list import KeptSource
from filtering.data.rows import Chunk, FailedRow, RawRow, Row, SkippedRow
from filtering.data.sieve import Sieve, Sieved
from filtering.data.sources import Source

__all__ = ["RowStream"]


class RowStream:
    """Stream ``stream`` of ``n_streams`` over ``source``: the parts are dealt in an order drawn from ``seed``.

    Every epoch draws its own order of parts and its own shuffle, and drains the shuffle buffer at its end, so epochs
    are independent: (epoch, offset), with ``offset`` the raw rows consumed in that epoch, is the whole state, and a
    stream made with ``start`` at a chunk's position goes on exactly there. With ``shuffle_buffer`` 0 nothing is
    shuffled: parts are dealt and read in their own order.

    Args:
        held_out_groups: groups to skip; None skips the groups that ``is_held_out`` picks by ``held_out_fraction``.
        max_epochs: end after this many epochs; None never ends.
        sieve: takes out condemned groups; None takes none.
        window: windows taken before ``start``; the sieve's rulings hold from a window on.

    Raises:
        ValueError: the source has fewer parts than streams, or the numbers make no sense.
    """

    def __init__(
        self,
        source: Source,
        stream: int,
        n_streams: int,
        seed: int,
        config: DataConfig,
        *,
        start: tuple[int, int] = (0, 0),
        max_epochs: int | None = None,
        held_out_groups: frozenset[str] | None = None,
        sieve: Sieve | None = None,
        window: int = 0,
    ) -> None:
        if not 0 <= stream < n_streams:
            raise ValueError(f"stream {stream} is not one of {n_streams} streams")
        if len(source) < n_streams:
            raise ValueError(f"{len(source)} shards or rows cannot be dealt to {n_streams} streams")
        if min(start) < 0:
            raise ValueError(f"a stream cannot start at epoch {start[0]}, offset {start[1]}")
        self.source = source
        self.stream, self.n_streams = stream, n_streams
        self.seed = seed
        self.config = config
        self.max_epochs = max_epochs
        self.held_out_groups = held_out_groups
        self.epoch, self.offset = start
        self.sieve, self.window = sieve, window
        order = np.arange(len(source))
        if config.shuffle_buffer:
            order = row_generator(seed, purpose="deal").permutation(order)
        self._parts = order[stream::n_streams]
        self._raw: Iterator[RawRow] | None = None
        self._whole = False  # this epoch was read from its first row
        self._usable = 0
        self._skipped: list[SkippedRow] = []
        self._sieved = 0
        self._not_kept: Counter[str] = Counter()

    def take(self, n: int) -> Chunk:
        """The next ``n`` decoded rows, with what was skipped on the way; fewer, and ``ended``, after ``max_epochs``.

        Raises:
            ValueError: a whole epoch gave no usable row, so that waiting for one would never end.
        """
        rows: list[Row] = []
        failed: list[FailedRow] = []
        held_out: list[str] = []
        self.window += 1
        if self.sieve is not None:
            self.sieve.advance(self.window)
        while len(rows) < n and not self._ended():
            if self._raw is None:
                self._raw = self._epoch_rows(self.epoch, self.offset)
                self._whole, self._usable, self._sieved = self.offset == 0, 0, 0
            raw = next(self._raw, None)
            if raw is None:
                self._finish_epoch(failed, held_out)
                continue
            offset, self.offset = self.offset, self.offset + 1
            try:
                if raw.error is not None:
                    raise BadSample(raw.error)
                group = group_of(raw, self.config)
                if self._is_held_out(group):
                    held_out.append(raw.key)
                    continue
                fate = self._sift(raw, group, offset)
                if fate in (Sieved.SKIP, Sieved.BANNED):
                    continue
                rows.append(decode_row(raw, self.config, self.stream, self.epoch, offset, self.seed))
                self._usable += fate is Sieved.PASS
            except BadSample as error:
                failed.append(FailedRow(raw.key, raw.shard, raw.index, str(error)))
        not_kept, self._not_kept = dict(self._not_kept), Counter()
        skipped, self._skipped = self._skipped, []
        return Chunk(self.stream, rows, failed, held_out, self.epoch, self.offset, len(rows) < n, not_kept, skipped)

    def _sift(self, raw: RawRow, group: str, offset: int) -> Sieved:
        """What the sieve says, noted where it takes the row out. A row that is let through to be measured trains
        nothing, so it is no usable row either."""
        if self.sieve is None:
            return Sieved.PASS
        fate = self.sieve.judge(raw.key, group, (self.stream, self.epoch, offset))
        self._sieved += fate is not Sieved.PASS
        if fate in (Sieved.SKIP, Sieved.BANNED):
            banned = fate is Sieved.BANNED
            place = (self.stream, self.epoch, offset)
            self._skipped.append(SkippedRow(raw.key, raw.shard, raw.index, group, *place, banned))
        return fate

    def _ended(self) -> bool:
        return self.max_epochs is not None and self.epoch >= self.max_epochs

    def _finish_epoch(self, failed: list[FailedRow], held_out: list[str]) -> None:
        if self._whole and not self._usable:
            reasons = [f"{len(failed)} failed"] if failed else []
            reasons += [f"{len(held_out)} are held out"] if held_out else []
            reasons += [f"{self._sieved} are condemned or in filter.always_drop"] if self._sieved else []
            first = f"; the first failure: {failed[0].key or failed[0].shard}: {failed[0].error}" if failed else ""
            raise ValueError(
                f"stream {self.stream} has no usable row in a whole epoch ({', '.join(reasons) or 'it is empty'})"
                f"{first}; {self._way_out()}"
            )
        self._raw = None
        self.epoch, self.offset = self.epoch + 1, 0

    def _way_out(self) -> str:
        if self._sieved:
            return (
                "the filter has left it nothing to train on: stop here, lower filter.false_drop_rate or "
                "filter.max_drop_fraction, or use fewer data.streams"
            )
        return "check data.path and data.held_out_path, or use fewer data.streams"

    def _is_held_out(self, group: str) -> bool:
        if self.held_out_groups is not None:
            return group in self.held_out_groups
        return is_held_out(group, self.config.held_out_fraction)

    def _epoch_rows(self, epoch: int, offset: int) -> Iterator[RawRow]:
        """The raw rows of ``epoch`` from ``offset`` on; those before it are read again where they must be."""
        parts = self._parts
        size = self.config.shuffle_buffer
        if size:
            parts = row_generator(self.seed, self.stream, epoch, purpose="parts").permutation(parts)
        if self.source.indexed:
            # One row per part: their order is a full shuffle already, and the rows before ``offset`` need no reading.
            if not offset and isinstance(self.source, KeptSource):
                self._not_kept.update(self.source.unread(self.stream, self.n_streams))
            return itertools.chain.from_iterable(self._read(int(part)) for part in parts[offset:])
        rows: Iterator[RawRow] = itertools.chain.from_iterable(self._read(int(part)) for part in parts)
        if size > 1:
            rows = _shuffled(rows, size, row_generator(self.seed, self.stream, epoch, purpose="shuffle"))
        if offset:
            for _ in itertools.islice(rows, offset):
                pass
            self._not_kept.clear()  # counted before the stream was stopped here
        return rows

    def _read(self, part: int) -> Iterator[RawRow]:
        """A keep-list works before the shuffle, so that offsets and draws are those of the shards made from it."""
        if isinstance(self.source, KeptSource):
            return self.source.read(part, note=lambda reason: self._not_kept.update([reason]))
        return self.source.read(part)


def _shuffled(rows: Iterator[RawRow], size: int, generator: np.random.Generator) -> Iterator[RawRow]:
    """Rows through a buffer of ``size``: each one that comes in pushes out a random one; the rest is drained."""
    buffer: list[RawRow] = []
    for row in rows:
        if len(buffer) < size:
            buffer.append(row)
            continue
        place = int(generator.integers(size))
        row, buffer[place] = buffer[place], row
        yield row
    for place in generator.permutation(len(buffer)):
        yield buffer[int(place)]
