"""Windows made of what the streams of all ranks give: of one shape each, and full ones but for the last of a pass."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch

from memsieve.filtering.data.decode import from_levels, to_levels
from memsieve.filtering.data.rows import Row
from memsieve.filtering.exchange import Exchange

__all__ = ["Found", "Held", "Pool", "Ranks", "Waiting"]

Waiting = tuple[int, int]
"""A row that waits for its window: the number of its bucket, and its stream."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The rank that reads, of how many, and how it and the others meet."""

    rank: int = 0
    world_size: int = 1
    exchange: Exchange = field(default_factory=Exchange)
    """Tells all ranks how many rows each has; by default by the process group."""
    meet: Callable[[], None] = lambda: None
    """Returns when all ranks have called it, however long that takes. Called where reading begins: what must be passed
    there may take a rank longer than a collective waits."""


@dataclass(slots=True)
class Found:
    """How many rows of a pass were usable, and what became of the others; over all ranks."""

    usable: int = 0
    failed: int = 0
    held_out: int = 0
    sieved: int = 0

    def plus(self, other: Found) -> Found:
        """The sum of both."""
        return Found(
            self.usable + other.usable,
            self.failed + other.failed,
            self.held_out + other.held_out,
            self.sieved + other.sieved,
        )


@dataclass(frozen=True, slots=True)
class Held:
    """A waiting row of this rank: its bucket, its place in its stream, and itself; None where it was read before a
    resume and cannot be read again."""

    bucket: int
    stream: int
    offset: int
    row: Row | None


@dataclass(slots=True)
class Pool:
    """Rows that were read and wait for their window: the same ones on all ranks, each held by the rank that read it.

    A window is of one bucket, and takes rows in the order of turns, then streams. Within it they are laid out by
    stream, and rank r takes the r-th part: whatever the number of ranks, the same rows at the same places. Where
    streams give equally many, every row is where it was read; the others move.

    Args:
        rows_per_window, n_streams: of all ranks.
        order: rows of all ranks that wait, as they came.
    """

    rows_per_window: int
    n_streams: int
    ranks: Ranks
    order: list[Waiting] = field(default_factory=list)
    _rows: dict[Waiting, deque[Held]] = field(default_factory=dict)

    def add(self, order: Iterable[Waiting], mine: Iterable[Held]) -> None:
        """What a turn gave: ``order`` says what all streams did, ``mine`` are the rows of this rank's streams."""
        self.order += order
        self.hold(mine)

    def hold(self, mine: Iterable[Held]) -> None:
        """Rows of this rank that ``order`` has, of each bucket and stream as they came."""
        for held in mine:
            self._rows.setdefault((held.bucket, held.stream), deque()).append(held)

    @property
    def waiting(self) -> dict[int, list[tuple[int, int]]]:
        """Of each stream of this rank, (bucket, offset) of the rows that wait, as they came."""
        found: dict[int, list[tuple[int, int]]] = {}
        for held in sorted((held for queue in self._rows.values() for held in queue), key=lambda held: held.offset):
            found.setdefault(held.stream, []).append((held.bucket, held.offset))
        return found

    def due(self, ended: bool) -> int | None:
        """The bucket that fills a window, the first one that did; where the pass has ``ended``, else that of the row
        that waits longest. None where no window is due."""
        counts: Counter[int] = Counter()
        for bucket, _ in self.order:
            counts[bucket] += 1
            if counts[bucket] == self.rows_per_window:
                return bucket
        return self.order[0][0] if ended and self.order else None

    def window(self, bucket: int) -> list[Row | None]:
        """This rank's rows of the next window of ``bucket``, padded; a collective where rows have to move."""
        share, streams = self.rows_per_window // self.ranks.world_size, self.n_streams // self.ranks.world_size
        rows: list[Row | None] = [None] * share
        moving: list[tuple[int, Row | None]] = []
        moves = False
        for place, stream in enumerate(sorted(self._take(bucket))):
            taker, holder = place // share, stream // streams
            moves |= taker != holder
            if holder == self.ranks.rank:
                row = self._rows[bucket, stream].popleft().row
                if taker == self.ranks.rank:
                    rows[place % share] = row
                else:
                    moving.append((place, _packed(row)))
        if moves:  # known from the counts, so to all ranks or to none
            for place, row in (item for theirs in self.ranks.exchange.gather_objects(moving) for item in theirs):
                if place // share == self.ranks.rank:
                    rows[place % share] = _unpacked(row)
        return rows

    def _take(self, bucket: int) -> list[int]:
        """The streams of the next rows of ``bucket``, which wait no longer."""
        taken: list[int] = []
        left: list[Waiting] = []
        for one, stream in self.order:
            if one == bucket and len(taken) < self.rows_per_window:
                taken.append(stream)
            else:
                left.append((one, stream))
        self.order = left
        return taken


def _packed(row: Row | None) -> Row | None:
    """A row for its way to another rank: pixels as levels, a quarter of the bytes, where nothing is lost by it."""
    if row is None:
        return None
    levels = to_levels(row.pixels)
    return replace(row, pixels=levels) if torch.equal(from_levels(levels), row.pixels) else row


def _unpacked(row: Row | None) -> Row | None:
    return row if row is None or row.pixels.dtype != torch.uint8 else replace(row, pixels=from_levels(row.pixels))
