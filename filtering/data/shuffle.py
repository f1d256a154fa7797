"""The rows of a stream's pieces through a shuffle buffer, from any place on without reading what came before."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

from memsieve.filtering.data.dealing import Piece
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.data.sources import Shards

__all__ = ["ShuffleBuffer", "rows_at", "shuffled_rows"]

T = TypeVar("T")
Ref = tuple[int, int]
"""A row before it is read: number of its piece, ``index`` in its shard."""


class ShuffleBuffer(Generic[T]):
    """Holds ``size`` items back: each one that comes in pushes out a random one. Under 2, nothing is held back."""

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        self.size, self.generator = size, generator
        self.items: list[T] = []

    def push(self, item: T) -> T | None:
        """The item that leaves as ``item`` comes; None while the buffer fills."""
        if self.size < 2:
            return item
        if len(self.items) < self.size:
            self.items.append(item)
            return None
        place = int(self.generator.integers(self.size))
        item, self.items[place] = self.items[place], item
        return item

    def drain(self) -> Iterator[T]:
        """What is left, in random order."""
        items, self.items = self.items, []
        for place in self.generator.permutation(len(items)):
            yield items[int(place)]


Reader = Callable[..., Iterator[RawRow]]
"""As ``Shards.read``."""


def shuffled_rows(
    source: Shards,
    pieces: Sequence[Piece],
    size: int,
    generator: np.random.Generator,
    skip: int = 0,
    *,
    read: Reader | None = None,
    passed: Callable[[], None] = lambda: None,
) -> Iterator[RawRow]:
    """The rows of ``pieces`` in turn, through a buffer of ``size``, without the first ``skip``.

    Rows that are skipped are passed by their headers, and only those that wait in the buffer at that place are read.

    Args:
        read: reads in place of ``source.read`` from where the rows begin.
        passed: told of each row that is passed.
    """
    read = read or source.read
    if not skip:
        yield from _through(ShuffleBuffer(size, generator), _rows(read, pieces))
        return
    refs: ShuffleBuffer[Ref] = ShuffleBuffer(size, generator)
    left, place = skip, (-1, -1)
    for place in _refs(source, pieces):
        left -= refs.push(place) is not None
        passed()
        if not left:
            break
    else:
        ends = list(refs.drain())[left:]
        yield from _fetch(source, pieces, ends)
        return
    buffer: ShuffleBuffer[RawRow] = ShuffleBuffer(size, generator)
    buffer.items = _fetch(source, pieces, refs.items)
    yield from _through(buffer, _rows(read, pieces, place))


def rows_at(
    source: Shards,
    pieces: Sequence[Piece],
    size: int,
    generator: np.random.Generator,
    places: Sequence[int],
    passed: Callable[[], None] = lambda: None,
) -> list[RawRow]:
    """Of what ``shuffled_rows`` gives by the same arguments, the rows at ``places``, counted from 0 and ascending; the
    others are passed by their headers."""
    if not places:
        return []
    buffer: ShuffleBuffer[Ref] = ShuffleBuffer(size, generator)

    def leaving() -> Iterator[Ref]:
        for ref in _refs(source, pieces):
            passed()
            out = buffer.push(ref)
            if out is not None:
                yield out
        yield from buffer.drain()

    wanted = frozenset(places)
    refs = [ref for place, ref in enumerate(itertools.islice(leaving(), places[-1] + 1)) if place in wanted]
    return _fetch(source, pieces, refs)


def _through(buffer: ShuffleBuffer[RawRow], rows: Iterator[RawRow]) -> Iterator[RawRow]:
    for row in rows:
        out = buffer.push(row)
        if out is not None:
            yield out
    yield from buffer.drain()


def _rows(read: Reader, pieces: Sequence[Piece], after: Ref = (0, -1)) -> Iterator[RawRow]:
    """The rows behind ``after``."""
    first, index = after
    begun = pieces[first : first + 1]
    for piece in begun:
        rows = read(piece.part, piece.start, piece.stop, only=_Behind(index))
        yield from rows
    yield from itertools.chain.from_iterable(read(p.part, p.start, p.stop) for p in pieces[first + 1 :])


class _Behind:
    """All numbers above ``index``."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and index > self.index


def _refs(source: Shards, pieces: Sequence[Piece]) -> Iterator[Ref]:
    for number, piece in enumerate(pieces):
        for row in source.read(piece.part, piece.start, piece.stop, bodies=False):
            yield number, row.index


def _fetch(source: Shards, pieces: Sequence[Piece], refs: Sequence[Ref]) -> list[RawRow]:
    wanted: dict[int, set[int]] = defaultdict(set)
    for number, index in refs:
        wanted[number].add(index)
    found = {}
    for number, indices in wanted.items():
        piece = pieces[number]
        for row in source.read(piece.part, piece.start, piece.stop, only=indices):
            found[number, row.index] = row
    return [found.get(ref) or _gone(source, pieces, ref) for ref in refs]


def _gone(source: Shards, pieces: Sequence[Piece], ref: Ref) -> RawRow:
    """In place of a row whose header was there a moment ago: its shard, or the way to it, has failed since."""
    shard = source.identity[pieces[ref[0]].part]
    return RawRow("", shard, ref[1], error=f"sample {ref[1]} of shard '{shard}' cannot be read any more")
