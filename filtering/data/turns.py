"""The streams of one rank, turn by turn, read by worker processes or by the process itself."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from memsieve.filtering.data.loader_sieve import Sieve
from memsieve.filtering.data.rows import Chunk, Place
from memsieve.filtering.data.streams import ReadingPlan, RowStream, Start
from memsieve.filtering.data.workers import keep_until_parent_ends, stops_held

__all__ = ["Passes", "Turns", "chunks_ahead"]

_EMPTY = torch.empty(0)
Pixels = tuple[torch.Tensor, list[tuple[int, ...]]]
"""Of all rows of a chunk, one after the other, and their shapes."""


def chunks_ahead(workers: int, streams: int) -> int:
    """Chunks that each of ``workers`` holds ready: one turn in hand and one ahead."""
    return max(2, streams // workers) if workers else 0


class Turns(IterableDataset[Any]):
    """In a worker: this rank's ``streams`` ``k::workers``; in the process itself: all of them.

    Workers live as long as the iteration over all passes. Where a pass starts is told to them by shared memory.

    Args:
        rows: of each stream in a turn.
    """

    def __init__(self, plan: ReadingPlan, streams: range, rows: int, sieve: Sieve | None) -> None:
        self.plan, self.streams, self.rows, self.sieve = plan, streams, rows, sieve
        self.workers = plan.config.workers
        self._start = torch.zeros(2 + 2 * len(streams), dtype=torch.int64).share_memory_()
        self._alive = torch.zeros(len(streams), dtype=torch.int64).share_memory_()

    @property
    def alive(self) -> int:
        """Rows read or passed so far, workers' too; a sign of life and no more."""
        return int(self._alive.sum())

    def sign_of(self, stream: int) -> Callable[[], None]:
        """What is called for each row of a stream of this rank that is read or passed."""
        return _Counter(self._alive, self.streams.index(stream))

    def start_at(self, epoch: int, tick: int, places: dict[int, Place]) -> None:
        """Where the next iteration starts: the pass, the turns of the run before it, the streams' places."""
        numbers = [number for s in self.streams for number in (places[s].offset, places[s].ended)]
        self._start[:] = torch.tensor([epoch, tick, *numbers])

    def __iter__(self) -> Iterator[tuple[Chunk, Pixels | None]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        epoch, tick, *numbers = self._start.tolist()
        # A sieve never goes back, and a worker may have been ahead of the end of the pass before.
        sieve = self.sieve.afresh() if self.sieve is not None else None
        streams = [
            RowStream(
                self.plan,
                self.streams[k],
                Start(epoch, Place(numbers[2 * k], bool(numbers[2 * k + 1])), tick),
                sieve=sieve,
                alive=_Counter(self._alive, k),
            )
            for k in range(first, len(self.streams), step)
        ]
        while True:
            for stream in streams:
                chunk = stream.take(self.rows)
                yield _pack(chunk) if worker is not None else (chunk, None)


class Passes:
    """Reads passes, one after the other, with the same workers.

    Args:
        meet: called once, when this rank has its first turn.
    """

    def __init__(self, turns: Turns, meet: Callable[[], None]) -> None:
        self.turns, workers = turns, turns.workers
        self._meet: Callable[[], None] | None = meet
        # With a generator of its own DataLoader leaves torch's global one, and so the model's draws, alone.
        self.loader: DataLoader[Any] = DataLoader(
            turns,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=chunks_ahead(workers, len(turns.streams)) or None,
            persistent_workers=workers > 0,
            generator=torch.Generator(),
            worker_init_fn=keep_until_parent_ends,
        )

    def begin(self, epoch: int, tick: int, places: dict[int, Place]) -> Iterator[list[Chunk]]:
        """One chunk per stream of this rank, in stream order, again and again: empty ones after the end."""
        self.turns.start_at(epoch, tick, places)
        # DataLoader takes from its workers in turn, and worker k gives streams k, k + workers, ...: stream order.
        with stops_held():
            chunks = map(_unpack, iter(self.loader))
        while group := list(itertools.islice(chunks, len(self.turns.streams))):
            if self._meet is not None:
                self._meet()
                self._meet = None
            yield group


class _Counter:
    """Counts up in one place of shared memory, which no other stream writes."""

    def __init__(self, counts: torch.Tensor, place: int) -> None:
        self.counts = counts.numpy()
        self.place = place

    def __call__(self) -> None:
        self.counts[self.place] += 1


def _pack(chunk: Chunk) -> tuple[Chunk, Pixels | None]:
    """Pixels as one tensor: each tensor that crosses processes takes a file descriptor, and a window has many rows."""
    if not chunk.rows:
        return chunk, None
    pixels = torch.cat([row.pixels.flatten() for row in chunk.rows])
    shapes = [tuple(row.pixels.shape) for row in chunk.rows]
    rows = [dataclasses.replace(row, pixels=_EMPTY) for row in chunk.rows]
    return dataclasses.replace(chunk, rows=rows), (pixels, shapes)


def _unpack(packed: tuple[Chunk, Pixels | None]) -> Chunk:
    chunk, given = packed
    if given is not None:
        pixels, shapes = given
        parts = pixels.split([math.prod(shape) for shape in shapes])
        for row, part, shape in zip(chunk.rows, parts, shapes, strict=True):
            row.pixels = part.view(shape)
    return chunk
