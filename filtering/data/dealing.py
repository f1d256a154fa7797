"""Who reads what in a pass: the rows of a source dealt to streams, equally many to each, anew in every pass."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.draws import row_generator
from memsieve.filtering.data.sources import Shards, Source
from memsieve.filtering.settings import SettingsError

__all__ = ["COUNTED_SHARDS", "PartSizes", "Piece", "deal", "measure_parts", "resolve_streams"]

_AUTOMATIC: Final = (8, 4, 2, 1)
"""Numbers of streams to try where none is set."""

COUNTED_SHARDS: Final = 64
"""Up to so many shards on disk are counted, by their headers, at the start of a run, so that they can be cut. With more
of them whole shards even out well enough, and reading every header (two seconds for 10,000 samples) would take long."""
SHARDS_PER_STREAM: Final = 4
"""Where there are fewer shards a stream than this they are counted all the same: whole ones would not even out."""
PIECES: Final = 8
"""Pieces of a stream in a pass, at least, where shards are cut: a stretch of data whose pairs are condemned is then
spread over streams, and seeking to so many places still costs nothing."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [``start``, ``stop``) of one part; to its end where ``stop`` is None."""

    part: int
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class PartSizes:
    """How large the parts of a source are: in rows where they were counted, else in bytes alone."""

    rows: list[int] | None
    bytes: list[int]

    @property
    def total_rows(self) -> int | None:
        """Rows of all parts; None where they were not counted."""
        return None if self.rows is None else sum(self.rows)


def measure_parts(source: Source, n_streams: int) -> PartSizes:
    """The sizes that ``deal`` needs; counting is left out where it would mean reading the data."""
    if source.indexed:
        return PartSizes(None, [])
    shards = cast("Shards", source)
    rows = shards.part_rows(max(COUNTED_SHARDS, SHARDS_PER_STREAM * n_streams))
    return PartSizes(rows, [] if rows is not None else shards.part_bytes())


def deal(source: Source, sizes: PartSizes, n_streams: int, seed: int, epoch: int, shuffled: bool) -> list[list[Piece]]:
    """The pieces of each stream in pass ``epoch``: every row of the source in one of them, once.

    Rows that are reached one by one, and shards that were counted, are dealt equally to within a row. Other shards stay
    whole, the largest first, each to the stream that has least. Every pass has an order of its own where ``shuffled``;
    else rows keep the order of the source.
    """
    if source.indexed:
        order = _order(len(source), seed, epoch, shuffled)
        return [[Piece(int(part)) for part in order[stream::n_streams]] for stream in range(n_streams)]
    if sizes.rows is None:
        return _whole(sizes.bytes, n_streams, seed, epoch, shuffled)
    pieces = _cut(sizes.rows, n_streams) if shuffled else [Piece(p, 0, n) for p, n in enumerate(sizes.rows)]
    order = _order(len(pieces), seed, epoch, shuffled)
    dealt = _split([pieces[int(place)] for place in order], n_streams)
    # What a shard holds beyond its count, the note of its damage say, belongs to its last piece.
    return [[Piece(p.part, p.start, None if p.stop == sizes.rows[p.part] else p.stop) for p in mine] for mine in dealt]


def _order(count: int, seed: int, epoch: int, shuffled: bool) -> np.ndarray[Any, Any]:
    order = np.arange(count)
    return row_generator(seed, epoch, purpose="deal").permutation(order) if shuffled else order


def _whole(sizes: list[int], n_streams: int, seed: int, epoch: int, shuffled: bool) -> list[list[Piece]]:
    """Whole parts. The largest go first, each to the stream with the fewest bytes (Graham, 1969)."""
    if not shuffled:
        return [[Piece(part) for part in range(stream, len(sizes), n_streams)] for stream in range(n_streams)]
    order = _order(len(sizes), seed, epoch, shuffled)
    order = order[np.argsort([-sizes[int(part)] for part in order], kind="stable")]
    loads = [0] * n_streams
    dealt: list[list[Piece]] = [[] for _ in range(n_streams)]
    for part in order.tolist():
        stream = min(range(n_streams), key=lambda s: (loads[s], len(dealt[s]), s))
        dealt[stream].append(Piece(part))
        loads[stream] += sizes[part]
    return [
        [mine[int(place)] for place in row_generator(seed, stream, epoch, purpose="parts").permutation(len(mine))]
        for stream, mine in enumerate(dealt)
    ]


def _cut(rows: list[int], n_streams: int) -> list[Piece]:
    """Parts cut into nearly equal pieces, so many that each stream gets several."""
    most = max(1, sum(rows) // (n_streams * PIECES))
    pieces = []
    for part, count in enumerate(rows):
        edges = np.linspace(0, count, max(1, -(-count // most)) + 1).astype(int).tolist()
        pieces += [Piece(part, start, stop) for start, stop in itertools.pairwise(edges)]
    return pieces


def _split(pieces: list[Piece], n_streams: int) -> list[list[Piece]]:
    """The rows of ``pieces``, one after the other, in ``n_streams`` stretches that are equal to within a row."""
    total = sum((piece.stop or 0) - piece.start for piece in pieces)
    edges = [total * (stream + 1) // n_streams for stream in range(n_streams)]
    dealt: list[list[Piece]] = [[] for _ in range(n_streams)]
    stream, before = 0, 0
    for piece in pieces:
        start, stop = piece.start, piece.stop or 0
        if start == stop:  # an empty shard, or one that cannot be opened: it must be looked at all the same
            dealt[stream].append(piece)
        while start < stop:
            while before == edges[stream]:
                stream += 1
            taken = min(stop - start, edges[stream] - before)
            dealt[stream].append(Piece(piece.part, start, start + taken))
            start, before = start + taken, before + taken
    return dealt


def resolve_streams(
    config: DataConfig, rows: int, source: Source, world_size: int, saved: int = 0
) -> tuple[int, PartSizes]:
    """The number of streams: ``config.streams``, else what a run had before, else the largest of 8, 4, 2, 1 that fits;
    and the sizes of the source's parts."""
    multiple = world_size * max(1, config.workers)
    fixed = config.streams or saved
    kind, units = ("rows", len(source)) if source.indexed else ("shards", len(source))
    for streams in [fixed] if fixed else _AUTOMATIC:
        if rows > 0 and rows % streams == 0 and streams % multiple == 0:
            sizes = measure_parts(source, streams)
            if sizes.rows is not None:
                kind, units = "rows", max(1, sum(sizes.rows))
            if streams <= units:
                return streams, sizes
    if saved and not config.streams and rows % saved == 0 and saved % world_size == 0:
        raise SettingsError(
            f"data.workers: {config.workers} does not divide the {saved} streams that the run was begun with among "
            f"{world_size} rank(s); set data.workers: 0, or the number that the run had"
        )
    wanted = f"data.streams = {fixed}" if fixed else "data.streams = 0 (automatic: 8, 4, 2 or 1)"
    raise SettingsError(
        f"{wanted} does not fit {units} {kind}, {world_size} ranks, data.workers = {config.workers} and {rows} rows "
        f"per window (batch x accumulation x ranks): it must be a multiple of ranks x workers = {multiple}, at most "
        f"the number of {kind}, and divide the rows per window; set data.workers = 0, "
        + ("write more, smaller shards, " if kind == "shards" else "")
        + f"or set data.streams to a multiple of {multiple} and the batch to a multiple of data.streams"
    )
