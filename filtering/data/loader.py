"""Training windows for one rank: the same global rows for every number of ranks and workers, resumable."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from memsieve.filtering.data.bucket_counts import windows_of
from memsieve.filtering.data.buckets import Bucket
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.dealing import resolve_streams
from memsieve.filtering.data.held_out import held_out_groups
from memsieve.filtering.data.intake import Intake
from memsieve.filtering.data.loader_sieve import Sieve
from memsieve.filtering.data.mark import Mark, check_same_data
from memsieve.filtering.data.pool import Found, Ranks
from memsieve.filtering.data.repeats import Repeats, find_repeats
from memsieve.filtering.data.rows import Chunk, FailedRow, Place, Row, SkippedRow
from memsieve.filtering.data.sources import open_source
from memsieve.filtering.data.streams import ReadingPlan
from memsieve.filtering.data.turns import Passes, Turns, chunks_ahead

__all__ = ["NoUsableRowError", "Window", "WindowLoader"]


class NoUsableRowError(ValueError):
    """A whole pass gave no usable row; on all ranks alike."""


@dataclass(slots=True)
class Window:
    """One rank's share of a global batch. ``rows`` always has the same length, None where a pass ended before it was
    full; their pixels are all of ``shape``, (height, width).

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
    shape: Bucket | None = None
    """None where the window has ``ended``."""


class WindowLoader:
    """Iterates the windows of one rank: ``rows_per_window`` (batch x accumulation x ranks) rows of all ranks together.

    A pass deals the rows of the source to ``n_streams`` streams, and a rank reads a contiguous block of them. Nothing
    of the next pass is read before the whole pass is: every row comes round equally often, whatever its shard. The rows
    that streams give in turn fill the windows, each with pictures of one shape: a picture waits until as many of its
    bucket have come as a window takes. So all windows are full but the last of each bucket in a pass, which come at its
    end; the windows of all ranks in order are the same for every ``world_size`` that divides ``n_streams``. Iterating
    again goes on after the last window that was handed out.

    After ``max_epochs`` passes, or where the sieve has taken every row of a pass, comes one ``ended`` window.

    The streams' turns are numbered from 1, and a window takes one turn or more. Where a ``sieve`` is given, nothing may
    be ruled about turns up to ``prefetched`` after ``ticks``, those that were handed out.

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
        ranks: Ranks | None = None,
        *,
        seed: int = 0,
        max_epochs: int | None = None,
        state: dict[str, Any] | None = None,
        sieve: Sieve | None = None,
    ) -> None:
        self.ranks = ranks = ranks or Ranks()
        rank, world_size = ranks.rank, ranks.world_size
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size} ranks")
        self.config, self.rows_per_window, self.seed = config, rows_per_window, seed
        self.max_epochs, self.sieve = max_epochs, sieve
        self.windows = 0
        self.source = open_source(config.path, config)
        saved = int(state.get("n_streams", 0)) if state is not None else 0
        self.n_streams, self.sizes = resolve_streams(config, rows_per_window, self.source, world_size, saved)
        self.repeats = self._find_repeats()
        self.shapes = config.shapes
        self._per_pass: int | None = None
        self.rows_per_stream = rows_per_window // self.n_streams
        share = self.n_streams // world_size
        self.streams = range(rank * share, (rank + 1) * share)
        self._mark = Mark(0, 0, dict.fromkeys(self.streams, Place()))
        if state is not None:
            self._restore(state)
        self.held_out = held_out_groups(config)
        """Groups of ``data.held_out_path``; None without one."""
        plan = ReadingPlan(self.source, config, self.sizes, self.n_streams, seed, self.held_out, self.repeats)
        self._intake = Intake(plan, rows_per_window, ranks)
        self._turns = Turns(plan, self.streams, self.rows_per_stream, sieve)

    @property
    def prefetched(self) -> int:
        """Turns that workers may have read beyond the last one handed out: none without workers, at most two."""
        workers = self.config.workers
        return -(-chunks_ahead(workers, len(self.streams)) * workers // len(self.streams))

    @property
    def ticks(self) -> int:
        """Turns of all streams that the windows handed out so far have taken."""
        return self._mark.tick

    @property
    def alive(self) -> int:
        """A number that grows as rows are read or passed, by workers too."""
        return self._turns.alive

    def count_rows(self) -> int:
        """Rows of a pass over the training source, unusable and held-out ones included, counted without decoding."""
        return (self.sizes.total_rows or self.source.count_rows()) - (self.repeats.surplus if self.repeats else 0)

    def _find_repeats(self) -> Repeats | None:
        if self.config.repeats != "all":
            self._check_exchange()
        return find_repeats(self.source, self.config, self.ranks)

    def _check_exchange(self) -> None:
        asked, joined = self.ranks.world_size, self.ranks.exchange.world_size
        if joined != asked:
            raise ValueError(
                f"the windows of {asked} ranks are made by all of them, and the exchange joins {joined}: start the "
                f"process group first, or give an exchange of {asked}"
            )

    def windows_per_pass(self) -> int:
        """Windows of a pass in which every row is usable: at least as many as it will have. A collective where there
        are buckets."""
        if len(self.shapes) == 1:
            return -(-self.count_rows() // self.rows_per_window)
        if self._per_pass is None:
            self._check_exchange()
            rows = self.count_rows()
            self._per_pass = windows_of(self.source, self.config, rows, self.rows_per_window, self.ranks)
        return self._per_pass

    def __iter__(self) -> Iterator[Window]:
        self._check_exchange()
        passes = Passes(self._turns, self.ranks.meet)
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
        yield self._window([None] * (self.rows_per_window // self.ranks.world_size), untold, None, why)

    def _pass(self, passes: Passes, untold: list[Chunk]) -> Generator[Window, None, Found]:
        """The windows of what is left of a pass; returns what the whole of it has found.

        ``untold`` are chunks of which nothing has been said yet; their samples are told with the next window.
        """
        mark = self._mark
        pool = self._intake.pool_at(mark, untold, self._turns.sign_of)
        found, tick, places, ended = mark.found, mark.tick, dict(mark.places), mark.ended
        turns = passes.begin(mark.epoch, tick, places)
        while True:
            while (bucket := pool.due(ended)) is not None:
                rows = pool.window(bucket)
                self._mark = Mark(mark.epoch, tick, dict(places), found, list(pool.order), pool.waiting, ended)
                if ended and not pool.order and found.usable:
                    # A resume must not read the end of the pass again: that would be one turn more than the run had.
                    self._mark = self._next_pass(mark.epoch, tick)
                self.windows += 1
                yield self._window(rows, untold, self.shapes[bucket])
            if ended:
                break
            chunks = next(turns)
            new, ended = self._intake.take_in(pool, chunks)
            places.update({chunk.stream: chunk.place for chunk in chunks})
            tick, found = tick + 1, found.plus(new)
            untold += chunks
        self._mark = Mark(mark.epoch, tick, places, found)
        return found

    def _next_pass(self, epoch: int, tick: int) -> Mark:
        return Mark(epoch + 1, tick, dict.fromkeys(self.streams, Place()))

    def _window(self, rows: list[Row | None], untold: list[Chunk], shape: Bucket | None, why: str = "") -> Window:
        window = Window(rows, ended=shape is None, why=why, shape=shape)
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
        first = next((bad for bad in self.ranks.exchange.gather_objects(mine) if bad is not None), None)
        reasons = [f"{found.failed} failed"] if found.failed else []
        reasons += [f"{found.held_out} are held out"] if found.held_out else []
        said = f"; the first failure: {first.key or first.shard}: {first.error}" if first is not None else ""
        return (
            f"the data has no usable row in a whole pass ({', '.join(reasons) or 'it is empty'}){said}; check "
            "data.path and data.held_out_path"
        )

    def _data(self) -> dict[str, Any]:
        """What positions in the data are positions of."""
        return {
            "n_streams": self.n_streams,
            "rows_per_window": self.rows_per_window,
            "seed": self.seed,
            "shuffle_buffer": self.config.shuffle_buffer,
            "paths": list(self.source.identity),
            "parts": len(self.source),
            "rows": self.sizes.rows,
            "buckets": None if self.config.buckets is None else [list(shape) for shape in self.shapes],
            "repeats": None if self.repeats is None else [self.repeats.most, self.repeats.digest],
        }

    def state_dict(self) -> dict[str, Any]:
        """Positions of this rank's streams after the last window handed out, in values that JSON can hold."""
        counted = {} if self._per_pass is None else {"per_pass": self._per_pass}
        now = {"world_size": self.ranks.world_size, "windows": self.windows, **counted}
        return {**self._data(), **now, **self._mark.as_plain()}

    def _restore(self, state: dict[str, Any]) -> None:
        check_same_data(state, self._data())
        self._mark = Mark.of(state, self.streams, self.ranks.rank, self.ranks.world_size)
        self.windows = int(state.get("windows", 0))
        self._per_pass = state.get("per_pass")
