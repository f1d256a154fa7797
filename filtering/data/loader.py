"""Training windows for one rank: the same global rows for every number of ranks and workers, resumable."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from filtering.data.config import DataConfig
from filtering.data.dealing import PartSizes, measure_parts
from filtering.data.held_out import held_out_groups
from filtering.data.pool import Found, Pool, Tick
from filtering.data.rows import Chunk, FailedRow, Place, Row, SkippedRow
from filtering.data.sieve import Sieve
from filtering.data.sources import Source, open_source
from filtering.data.turns import Passes, Turns, chunks_ahead
from filtering.exchange import Exchange
from filtering.settings import SettingsError

__all__ = ["NoUsableRowError", "Window", "WindowLoader", "merge_states"]

_AUTOMATIC = (8, 4, 2, 1)


class NoUsableRowError(ValueError):
    """A whole pass gave no usable row; on all ranks alike."""


@dataclass(slots=True)
class Window:
    """One rank's share of a global batch. ``rows`` always has the same length, None where a pass ended before it was
    full.

    ``ended``: there is nothing more to train on, on any rank; such a window has no rows, only what was read on the way.
    ``why`` says so where it is not the end of the last pass.
    """

    rows: list[Row | None]
    failed: list[FailedRow] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    ended: bool = False
    not_kept: dict[str, int] = field(default_factory=dict)
    """Rows read past because ``data.keep_list`` does not keep them, by reason."""
    skipped: list[SkippedRow] = field(default_factory=list)
    """Rows that the sieve took out."""
    why: str = ""


@dataclass(slots=True)
class _Mark:
    """Where reading goes on: the turn before which nothing waits, and what of the turns after it is done.

    Attributes:
        epoch: the pass.
        tick: turns of the run before it.
        places: where this rank's streams are there.
        found: what the pass had found there.
        read: turns after it whose samples were handed out as read.
        used: rows of these that were put into windows.
    """

    epoch: int
    tick: int
    places: dict[int, Place]
    found: Found = field(default_factory=Found)
    read: int = 0
    used: int = 0


class WindowLoader:
    """Iterates the windows of ``rank``: ``rows_per_window`` (batch x accumulation x ranks) rows of all ranks together.

    A pass deals the rows of the source to ``n_streams`` streams, and a rank reads a contiguous block of them. Nothing
    of the next pass is read before the whole pass is: every row comes round equally often, whatever its shard. The rows
    that streams give in turn fill the windows, so that all are full but the last of a pass; the windows of all ranks in
    order are the same for every ``world_size`` that divides ``n_streams``. Iterating again goes on after the last
    window that was handed out.

    After ``max_epochs`` passes, or where the sieve has taken every row of a pass, comes one ``ended`` window.

    The streams' turns are numbered from 1, and a window takes one turn or more. Where a ``sieve`` is given, nothing may
    be ruled about turns up to ``prefetched`` after ``ticks``, those that were handed out.

    Args:
        exchange: tells all ranks how many rows each has; by default by the process group.
        meet: returns when all ranks have called it, however long that takes. Called where reading begins: what must be
            passed there may take a rank longer than a collective waits.

    Raises:
        SettingsError: no number of streams fits shards, ranks, workers and batch.
        ValueError: ``state`` is from other data, another seed or another number of streams; while it iterates, the
            exchange is not one of ``world_size`` ranks.
        NoUsableRowError: while it iterates, on all ranks alike, a whole pass gave no usable row.
    """

    def __init__(
        self,
        config: DataConfig,
        rows_per_window: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        max_epochs: int | None = None,
        state: dict[str, Any] | None = None,
        sieve: Sieve | None = None,
        exchange: Exchange | None = None,
        meet: Callable[[], None] = lambda: None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size} ranks")
        self.config, self.rank, self.world_size, self.seed = config, rank, world_size, seed
        self.max_epochs, self.sieve = max_epochs, sieve
        self.exchange, self.meet = exchange or Exchange(), meet
        self.rows_per_window = rows_per_window
        self.windows = 0
        self.source = open_source(config.path, config)
        saved = int(state.get("n_streams", 0)) if state is not None else 0
        self.n_streams, self.sizes = _resolve_streams(config, rows_per_window, self.source, world_size, saved)
        self.rows_per_stream = rows_per_window // self.n_streams
        share = self.n_streams // world_size
        self.streams = range(rank * share, (rank + 1) * share)
        self._mark = _Mark(0, 0, dict.fromkeys(self.streams, Place()))
        if state is not None:
            self._restore(state)
        self._turns = Turns(
            self.source, self.streams, self.n_streams, seed, config, self.sizes, self.rows_per_stream,
            held_out_groups(config), sieve,
        )  # fmt: skip

    @property
    def prefetched(self) -> int:
        """Turns that workers may have read beyond the last one handed out: none without workers, at most two."""
        workers = self.config.workers
        return -(-chunks_ahead(workers, len(self.streams)) * workers // len(self.streams))

    @property
    def ticks(self) -> int:
        """Turns of all streams that the windows handed out so far have taken."""
        return self._mark.tick + self._mark.read

    @property
    def alive(self) -> int:
        """A number that grows as rows are read or passed, by workers too."""
        return self._turns.alive

    def count_rows(self) -> int:
        """Rows of the training source, unusable and held-out ones included, counted without decoding."""
        return self.sizes.total_rows or self.source.count_rows()

    def windows_per_pass(self) -> int:
        """Windows of a pass in which every row is usable: at least as many as it will have."""
        return -(-self.count_rows() // self.rows_per_window)

    def __iter__(self) -> Iterator[Window]:
        if self.exchange.world_size != self.world_size:
            raise ValueError(
                f"the windows of {self.world_size} ranks are made by all of them, and the exchange joins "
                f"{self.exchange.world_size}: start the process group first, or give an exchange of {self.world_size}"
            )
        passes = Passes(self._turns, self.meet)
        untold: list[Chunk] = []
        why = ""
        while self.max_epochs is None or self._mark.epoch < self.max_epochs:
            found = yield from self._pass(passes, untold)
            if not found.usable and found.sieved:
                why = (
                    f"the filter has left nothing to train on: in a whole pass {found.sieved} rows are condemned or in "
                    "filter.always_drop; where that is too much, begin a new run with a lower "
                    "filter.false_drop_rate or filter.max_drop_fraction"
                )
                break
            if not found.usable:
                raise NoUsableRowError(self._nothing(found, untold))
            self._mark = self._next_pass(self._mark.epoch, self.ticks)
        yield self._window([None] * (self.rows_per_window // self.world_size), untold, ended=True, why=why)

    def _pass(self, passes: Passes, untold: list[Chunk]) -> Generator[Window, None, Found]:
        """The windows of what is left of a pass; returns what the whole of it has found.

        ``untold`` are chunks of which nothing has been said yet; their samples are told with the next window.
        """
        mark = self._mark
        pool = Pool(self.rows_per_window, self.n_streams, self.exchange, self.rank, self.world_size)
        found, tick, places = mark.found, mark.tick, dict(mark.places)
        told, used = mark.read, mark.used  # before a resume: read once more, but neither told nor used again
        for chunks in passes.begin(mark.epoch, tick, places):
            counts, new, ended = self._agree(chunks)
            pool.add(Tick(tick, dict(places), found, counts), chunks)
            places.update({chunk.stream: chunk.place for chunk in chunks})
            tick, found, told = tick + 1, found.plus(new), told - 1
            untold += chunks if told < 0 else []
            used -= pool.discard(used)
            while len(pool) >= self.rows_per_window or (ended and len(pool)):
                rows = pool.window()
                first = pool.ticks[0] if pool.ticks else Tick(tick, dict(places), found, [])
                read = tick - first.number
                self._mark = _Mark(mark.epoch, first.number, first.places, first.before, read, first.taken)
                if ended and not len(pool) and found.usable:
                    # A resume must not read the end of the pass again: that would be one turn more than the run had.
                    self._mark = self._next_pass(mark.epoch, tick)
                self.windows += 1
                yield self._window(rows, untold)
            if ended:
                break
        self._mark = _Mark(mark.epoch, tick, places, found)
        return found

    def _next_pass(self, epoch: int, tick: int) -> _Mark:
        return _Mark(epoch + 1, tick, dict.fromkeys(self.streams, Place()))

    def _agree(self, chunks: list[Chunk]) -> tuple[list[int], Found, bool]:
        """Over all ranks: rows of each stream in this turn, what it found, whether the pass has ended. A collective."""
        mine = [
            [
                len(chunk.rows),
                len(chunk.rows) - chunk.measured_only,
                len(chunk.failed),
                len(chunk.held_out),
                len(chunk.skipped) + chunk.measured_only,
                chunk.ended,
            ]
            for chunk in chunks
        ]
        table = self.exchange.gather(torch.tensor(mine, dtype=torch.int64))
        _, usable, failed, held_out, sieved, ended = table.sum(0).tolist()
        return table[:, 0].tolist(), Found(usable, failed, held_out, sieved), ended == self.n_streams

    def _window(self, rows: list[Row | None], untold: list[Chunk], ended: bool = False, why: str = "") -> Window:
        window = Window(rows, ended=ended, why=why)
        for chunk in untold:
            window.failed += chunk.failed
            window.held_out += chunk.held_out
            window.skipped += chunk.skipped
            for reason, count in chunk.not_kept.items():
                window.not_kept[reason] = window.not_kept.get(reason, 0) + count
        untold.clear()
        return window

    def _nothing(self, found: Found, untold: list[Chunk]) -> str:
        mine = next((bad for chunk in untold for bad in chunk.failed), None)
        first = next((bad for bad in self.exchange.gather_objects(mine) if bad is not None), None)
        reasons = [f"{found.failed} failed"] if found.failed else []
        reasons += [f"{found.held_out} are held out"] if found.held_out else []
        said = f"; the first failure: {first.key or first.shard}: {first.error}" if first is not None else ""
        return (
            f"the data has no usable row in a whole pass ({', '.join(reasons) or 'it is empty'}){said}; check "
            "data.path and data.held_out_path"
        )

    def state_dict(self) -> dict[str, Any]:
        """Positions of this rank's streams after the last window handed out, in values that JSON can hold."""
        mark = self._mark
        return {
            "n_streams": self.n_streams,
            "world_size": self.world_size,
            "rows_per_window": self.rows_per_window,
            "seed": self.seed,
            "shuffle_buffer": self.config.shuffle_buffer,
            "paths": list(self.source.identity),
            "parts": len(self.source),
            "rows": self.sizes.rows,
            "windows": self.windows,
            "epoch": mark.epoch,
            "tick": mark.tick,
            "found": asdict(mark.found),
            "read": mark.read,
            "used": mark.used,
            "positions": [[stream, place.offset, place.ended] for stream, place in mark.places.items()],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        now = self.state_dict()
        if "used" not in state:
            raise ValueError(
                "the data position to resume from was written by memsieve 0.1.0, which dealt the data otherwise; start "
                "a new run folder, from that run's pipeline where it has one"
            )
        ways = {
            "n_streams": f"set data.streams = {state.get('n_streams')}",
            "rows_per_window": f"keep batch x accumulation x ranks = {state.get('rows_per_window')}",
            "seed": "use the seed of the run that wrote it",
            "shuffle_buffer": f"set data.shuffle_buffer = {state.get('shuffle_buffer')}",
            "paths": "resume on the same shards, under the same paths and in the same order",
            "parts": "resume on the same data",
            "rows": "resume on the same data: shards hold other numbers of samples now",
        }
        for name, way in ways.items():
            if state.get(name) != now[name]:
                raise ValueError(
                    f"the data position to resume from has {name} = {_short(state.get(name))}, this run has "
                    f"{_short(now[name])}; {way}, or start the data afresh"
                )
        saved = {int(stream): Place(int(offset), bool(ended)) for stream, offset, ended in state["positions"]}
        missing = [stream for stream in self.streams if stream not in saved]
        if missing:
            raise ValueError(
                f"the data position to resume from, saved by {state.get('world_size')} ranks, lacks streams {missing} "
                f"of rank {self.rank} of {self.world_size}; join the states of all ranks with merge_states"
            )
        places = {stream: saved[stream] for stream in self.streams}
        epoch, tick, read, used = (int(state[name]) for name in ("epoch", "tick", "read", "used"))
        self._mark = _Mark(epoch, tick, places, Found(**state["found"]), read, used)
        self.windows = int(state.get("windows", 0))


def merge_states(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The states of all ranks as one, from which a run with any number of ranks that fits can resume.

    Raises:
        ValueError: ``states`` is empty, or they are of different runs.
    """
    if not states:
        raise ValueError("there is no state to merge")
    first = {name: value for name, value in states[0].items() if name != "positions"}
    for state in states[1:]:
        if {name: value for name, value in state.items() if name != "positions"} != first:
            raise ValueError("the states to merge are of different runs: their streams, seed or paths differ")
    return {**first, "positions": sorted(position for state in states for position in state["positions"])}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _resolve_streams(
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
