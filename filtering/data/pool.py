"""Windows made of what the streams of all ranks give: full ones, but for the last of a pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from memsieve.filtering.data.rows import Chunk, Place, Row
from memsieve.filtering.exchange import Exchange

__all__ = ["Found", "Pool", "Ranks", "Tick"]


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


@dataclass(slots=True)
class Tick:
    """One turn of all streams.

    Attributes:
        number: turns of the run before it.
        places: where this rank's streams are before it.
        before: what the pass had found before it.
        counts: rows that each stream gave, of all ranks.
        taken: rows of it that were put into windows.
    """

    number: int
    places: dict[int, Place]
    before: Found
    counts: list[int]
    taken: int = 0

    @property
    def left(self) -> int:
        """Rows that wait."""
        return sum(self.counts) - self.taken


@dataclass(slots=True)
class Pool:
    """Rows that were read and wait for their window: the same ones on all ranks, each held by the rank that read it.

    A window takes them in the order of ticks, then streams. Within it they are laid out by stream, and rank r takes the
    r-th part: whatever the number of ranks, the same rows at the same places. Where streams give equally many, every
    row is where it was read; the others move.

    Args:
        rows_per_window, n_streams: of all ranks.
    """

    rows_per_window: int
    n_streams: int
    ranks: Ranks
    ticks: deque[Tick] = field(default_factory=deque)
    _order: deque[int] = field(default_factory=deque)
    _rows: dict[int, deque[Row]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._order)

    def add(self, tick: Tick, chunks: Sequence[Chunk]) -> None:
        """A turn: what this rank's streams gave, and how many rows all of them did."""
        self.ticks.append(tick)
        for stream, count in enumerate(tick.counts):
            self._order.extend([stream] * count)
        for chunk in chunks:
            self._rows.setdefault(chunk.stream, deque()).extend(chunk.rows)

    def discard(self, count: int) -> int:
        """Take up to ``count`` rows out, which had been used before: how many there were."""
        taken = self._take(count)
        for stream in taken:
            if stream in self._rows:
                self._rows[stream].popleft()
        return len(taken)

    def window(self) -> list[Row | None]:
        """This rank's rows of the next window, padded; a collective where rows have to move."""
        share, streams = self.rows_per_window // self.ranks.world_size, self.n_streams // self.ranks.world_size
        rows: list[Row | None] = [None] * share
        moving: list[tuple[int, Row]] = []
        moves = False
        for place, stream in enumerate(sorted(self._take(self.rows_per_window))):
            taker, holder = place // share, stream // streams
            moves |= taker != holder
            if holder == self.ranks.rank:
                row = self._rows[stream].popleft()
                if taker == self.ranks.rank:
                    rows[place % share] = row
                else:
                    moving.append((place, row))
        if moves:  # known from the counts, so to all ranks or to none
            for place, row in (item for theirs in self.ranks.exchange.gather_objects(moving) for item in theirs):
                if place // share == self.ranks.rank:
                    rows[place % share] = row
        return rows

    def _take(self, count: int) -> list[int]:
        """The streams of the next rows, noted as taken; ticks that have none left are forgotten."""
        taken = [self._order.popleft() for _ in range(min(count, len(self._order)))]
        left = len(taken)
        for tick in self.ticks:
            part = min(left, tick.left)
            tick.taken, left = tick.taken + part, left - part
        while self.ticks and not self.ticks[0].left:
            self.ticks.popleft()
        return taken
