"""Deterministic, resumable streams: each gives its share of one pass over the source, whoever reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.dealing import PartSizes, Piece, deal
from memsieve.filtering.data.decode import BadSample, decode_row, group_of
from memsieve.filtering.data.draws import row_generator
from memsieve.filtering.data.held_out import is_held_out
from memsieve.filtering.data.kept_source import KeptSource
from memsieve.filtering.data.loader_sieve import Sieve, Sieved
from memsieve.filtering.data.repeats import REPEAT, Repeats
from memsieve.filtering.data.rows import Chunk, FailedRow, Place, RawRow, Row, SkippedRow
from memsieve.filtering.data.shuffle import rows_at, shuffled_rows
from memsieve.filtering.data.sources import Shards, Source

__all__ = ["ReadingPlan", "RowStream", "Start", "read_again"]

LOOKED_AT: Final = 16
"""Rows read for each one asked for, at most, in one turn: where nearly all are condemned or held out, a turn ends short
rather than keep the other ranks waiting."""


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """What all streams of a run read by: the same on every rank, in every worker and in every pass."""

    source: Source
    config: DataConfig
    sizes: PartSizes
    """What ``measure_parts`` says of the source."""
    n_streams: int
    seed: int = 0
    held_out_groups: frozenset[str] | None = None
    """Groups to skip; None skips the groups that ``is_held_out`` picks by ``held_out_fraction``."""
    repeats: Repeats | None = None
    """Rows that a pass leaves out; None leaves out none."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stream begins: the pass, the place in it, and the chunks that the run took of each stream before."""

    epoch: int = 0
    place: Place = field(default_factory=Place)
    tick: int = 0
    """The sieve's records hold from a tick on."""


class RowStream:
    """Stream ``stream`` of those of ``plan``, in one pass over its source; see ``deal`` for what it reads.

    Every pass draws its own deal and its own shuffle, and drains the shuffle buffer at its end, so passes are
    independent: (epoch, place) is the whole state, and a stream made at a chunk's place goes on exactly there. With
    ``shuffle_buffer`` 0 nothing is shuffled.

    Args:
        sieve: takes out condemned groups; None takes none.
        alive: told of each row that is read or passed.

    Raises:
        ValueError: the numbers make no sense.
    """

    def __init__(
        self,
        plan: ReadingPlan,
        stream: int,
        start: Start | None = None,
        *,
        sieve: Sieve | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        start = start or Start()
        if not 0 <= stream < plan.n_streams:
            raise ValueError(f"stream {stream} is not one of {plan.n_streams} streams")
        if min(start.epoch, start.place.offset) < 0:
            raise ValueError(f"a stream cannot start at epoch {start.epoch}, offset {start.place.offset}")
        self.plan, self.stream = plan, stream
        self.epoch, self.offset, self.ended = start.epoch, start.place.offset, start.place.ended
        self.sieve, self.tick = sieve, start.tick
        self.alive = alive
        pieces = _pieces(plan, stream, start.epoch)
        self._not_kept: Counter[str] = Counter()
        self._raw = self._rows(pieces)
        self._ahead: RawRow | None = None
        self._begun = False

    def take(self, n: int) -> Chunk:
        """The next ``n`` decoded rows of the pass, with what was skipped on the way; fewer where the pass has ended,
        and where few of many rows were usable."""
        chunk = Chunk(self.stream, [], [], [], self.epoch, self.offset)
        self.tick += 1
        if self.sieve is not None:
            self.sieve.advance(self.tick)
        if not self._begun and not self.ended:
            self._begin()
        for _ in range(LOOKED_AT * n):
            if self._ahead is None or len(chunk.rows) == n:
                break
            self._use(self._ahead, chunk)
            self.offset += 1
            self._advance()
        chunk.offset, chunk.ended = self.offset, self.ended
        chunk.not_kept, self._not_kept = dict(self._not_kept + Counter(chunk.not_kept)), Counter()
        return chunk

    def _begin(self) -> None:
        self._begun = True
        self._advance()
        if self.offset:
            self._not_kept.clear()  # the chunk before had looked ahead as far as this

    def _advance(self) -> None:
        """Look one row ahead, so that the last rows of a pass are known to be its last."""
        self._ahead = next(self._raw, None)
        self.ended = self._ahead is None
        self.alive()

    def _use(self, raw: RawRow, chunk: Chunk) -> None:
        """Put a raw row where it belongs: among the chunk's rows, or with what was taken out."""
        try:
            if raw.error is not None:
                raise BadSample(raw.error)
            group = group_of(raw, self.plan.config)
            if self._is_held_out(group):
                chunk.held_out.append(raw.key)
                return
            if self._is_repeat(raw):
                chunk.not_kept[REPEAT] = chunk.not_kept.get(REPEAT, 0) + 1
                return
            position = (self.stream, self.epoch, self.offset)
            fate = self.sieve.judge(raw.key, group) if self.sieve is not None else Sieved.PASS
            if fate in (Sieved.SKIP, Sieved.BANNED):
                chunk.skipped.append(SkippedRow(raw.key, raw.shard, raw.index, group, *position, fate is Sieved.BANNED))
                return
            row: Row = decode_row(raw, self.plan.config, *position, self.plan.seed)
            chunk.rows.append(row)
        except BadSample as error:
            chunk.failed.append(FailedRow(raw.key, raw.shard, raw.index, str(error)))

    def _is_held_out(self, group: str) -> bool:
        if self.plan.held_out_groups is not None:
            return group in self.plan.held_out_groups
        return is_held_out(group, self.plan.config.held_out_fraction)

    def _is_repeat(self, raw: RawRow) -> bool:
        repeats = self.plan.repeats
        return repeats is not None and repeats.leaves_out(raw.shard, raw.index, self.epoch, self.plan.seed)

    def _rows(self, pieces: list[Piece]) -> Iterator[RawRow]:
        """The raw rows of the pass from ``offset`` on."""
        if self.plan.source.indexed:
            # One row per part: their order is a full shuffle already, and the rows before ``offset`` need no reading.
            if not self.offset and isinstance(self.plan.source, KeptSource):
                self._not_kept.update(self.plan.source.unread(self.stream, self.plan.n_streams))
            for piece in pieces[self.offset :]:
                yield from self.plan.source.read(piece.part)
            return
        generator = row_generator(self.plan.seed, self.stream, self.epoch, purpose="shuffle")
        size = self.plan.config.shuffle_buffer
        shards = cast("Shards", self.plan.source)
        yield from shuffled_rows(shards, pieces, size, generator, self.offset, read=self._read, passed=self.alive)

    def _read(self, part: int, start: int, stop: int | None, **options: object) -> Iterator[RawRow]:
        """A keep-list works before the shuffle, so that offsets and draws are those of the shards made from it."""
        if isinstance(self.plan.source, KeptSource):
            note = lambda reason: self._not_kept.update([reason])  # noqa: E731
            return self.plan.source.read(part, start, stop, note=note, **options)  # type: ignore[arg-type]
        return cast("Shards", self.plan.source).read(part, start, stop, **options)  # type: ignore[arg-type]


def _pieces(plan: ReadingPlan, stream: int, epoch: int) -> list[Piece]:
    shuffled = plan.config.shuffle_buffer > 0
    return deal(plan.source, plan.sizes, plan.n_streams, plan.seed, epoch, shuffled)[stream]


def read_again(
    plan: ReadingPlan, stream: int, epoch: int, offsets: Sequence[int], alive: Callable[[], None] = lambda: None
) -> list[Row | FailedRow]:
    """The rows at ``offsets`` of a stream in a pass, ascending, as ``RowStream`` gave them; what lies between is passed
    by headers."""
    pieces = _pieces(plan, stream, epoch)
    if plan.source.indexed:
        raws = [raw for offset in offsets for raw in plan.source.read(pieces[offset].part)]
    else:
        generator = row_generator(plan.seed, stream, epoch, purpose="shuffle")
        raws = rows_at(cast("Shards", plan.source), pieces, plan.config.shuffle_buffer, generator, offsets, alive)
    rows: list[Row | FailedRow] = []
    for raw, offset in zip(raws, offsets, strict=True):
        try:
            rows.append(decode_row(raw, plan.config, stream, epoch, offset, plan.seed))
        except BadSample as error:
            rows.append(FailedRow(raw.key, raw.shard, raw.index, str(error)))
    return rows
