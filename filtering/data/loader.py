"""Training windows for one rank: the same global rows for every number of ranks and workers, resumable."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from filtering.data.config import DataConfig
from filtering.data.held_out import held_out_groups
from filtering.data.rows import Chunk, FailedRow, Row, SkippedRow
from filtering.data.sieve import Sieve
from filtering.data.sources import Source, open_source
from filtering.data.streams import RowStream
from filtering.settings import SettingsError

__all__ = ["Window", "WindowLoader", "merge_states"]

_AUTOMATIC = (8, 4, 2, 1)
_EMPTY = torch.empty(0)


@dataclass(slots=True)
class Window:
    """One rank's share of a global batch. ``rows`` always has the same length, None where a stream has ended.

    ``ended``: every stream of this rank has ended, and windows after this one hold padding only.
    """

    rows: list[Row | None]
    failed: list[FailedRow]
    held_out: list[str]
    ended: bool
    not_kept: dict[str, int] = field(default_factory=dict)
    """Rows read past because ``data.keep_list`` does not keep them, by reason."""
    skipped: list[SkippedRow] = field(default_factory=list)
    """Rows that the sieve took out."""


class WindowLoader:
    """Iterates the windows of ``rank``: ``rows_per_window`` (batch x accumulation x ranks) rows of all ranks together.

    The global window is the concatenation over streams of ``rows_per_window / n_streams`` rows; a rank owns a
    contiguous block of streams, so the windows of all ranks in order are the same for every ``world_size`` that
    divides ``n_streams``. Iterating again goes on after the last window that was handed out.

    With ``max_epochs`` streams end at different times. A single rank stops after its ``ended`` window; with more
    ranks the iterator goes on with padding, and the caller stops when all ranks report ``ended``.

    Windows are numbered from 1. Where a ``sieve`` is given, nothing may be ruled about windows up to ``prefetched``
    after the one that was handed out last.

    Raises:
        SettingsError: no number of streams fits shards, ranks, workers and batch.
        ValueError: ``state`` is from other data, another seed or another number of streams.
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
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size} ranks")
        self.config, self.rank, self.world_size, self.seed = config, rank, world_size, seed
        self.max_epochs, self.sieve = max_epochs, sieve
        self.windows = 0
        self.source = open_source(config.path, config)
        self.n_streams = _resolve_streams(config, rows_per_window, len(self.source), world_size)
        self.rows_per_stream = rows_per_window // self.n_streams
        share = self.n_streams // world_size
        self.streams = range(rank * share, (rank + 1) * share)
        self._positions = dict.fromkeys(self.streams, (0, 0))
        if state is not None:
            self._restore(state)
        self._skip = held_out_groups(config)

    @property
    def prefetched(self) -> int:
        """Windows that workers may have read beyond the last one handed out: none without workers, at most two."""
        workers = self.config.workers
        return -(-_ahead(workers, len(self.streams)) * workers // len(self.streams))

    def count_rows(self) -> int:
        """Rows of the training source, unusable and held-out ones included, counted without decoding."""
        return self.source.count_rows()

    def __iter__(self) -> Iterator[Window]:
        while True:
            for chunks in self._chunks():
                window = Window([], [], [], ended=all(chunk.ended for chunk in chunks))
                for chunk in chunks:
                    window.rows += [*chunk.rows, *[None] * (self.rows_per_stream - len(chunk.rows))]
                    window.failed += chunk.failed
                    window.held_out += chunk.held_out
                    window.skipped += chunk.skipped
                    for reason, count in chunk.not_kept.items():
                        window.not_kept[reason] = window.not_kept.get(reason, 0) + count
                    # Only what is handed out counts: workers are ahead of it.
                    self._positions[chunk.stream] = (chunk.epoch, chunk.offset)
                self.windows += 1
                yield window
                if window.ended and self.world_size == 1:
                    return

    def _chunks(self) -> Iterator[list[Chunk]]:
        """One chunk per stream of this rank, in stream order, again and again."""
        dataset = _Chunks(self.source, self, dict(self._positions))
        workers = self.config.workers
        ahead = _ahead(workers, len(self.streams)) or None
        # With a generator of its own DataLoader leaves torch's global one, and so the model's draws, alone.
        loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=None, num_workers=workers, prefetch_factor=ahead, generator=torch.Generator()
        )
        # DataLoader takes from its workers in turn, and worker k gives streams k, k + workers, ...: stream order.
        chunks = map(_unpack, loader)
        while group := list(itertools.islice(chunks, len(self.streams))):
            yield group

    def state_dict(self) -> dict[str, Any]:
        """Positions of this rank's streams after the last window handed out, in values that JSON can hold."""
        return {
            "n_streams": self.n_streams,
            "world_size": self.world_size,
            "seed": self.seed,
            "shuffle_buffer": self.config.shuffle_buffer,
            "paths": list(self.source.identity),
            "parts": len(self.source),
            "windows": self.windows,
            "positions": [[stream, *self._positions[stream]] for stream in self.streams],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        now = self.state_dict()
        ways = {
            "n_streams": f"set data.streams = {state.get('n_streams')}",
            "seed": "use the seed of the run that wrote it",
            "shuffle_buffer": f"set data.shuffle_buffer = {state.get('shuffle_buffer')}",
            "paths": "resume on the same shards, under the same paths and in the same order",
            "parts": "resume on the same data",
        }
        for name, way in ways.items():
            if state.get(name) != now[name]:
                raise ValueError(
                    f"the data position to resume from has {name} = {_short(state.get(name))}, this run has "
                    f"{_short(now[name])}; {way}, or start the data afresh"
                )
        saved = {int(stream): (int(epoch), int(offset)) for stream, epoch, offset in state["positions"]}
        missing = [stream for stream in self.streams if stream not in saved]
        if missing:
            raise ValueError(
                f"the data position to resume from, saved by {state.get('world_size')} ranks, lacks streams {missing} "
                f"of rank {self.rank} of {self.world_size}; join the states of all ranks with merge_states"
            )
        self._positions = {stream: saved[stream] for stream in self.streams}
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


def _ahead(workers: int, streams: int) -> int:
    """Chunks that each of ``workers`` holds ready: one window in hand and one ahead."""
    return max(2, streams // workers) if workers else 0


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _resolve_streams(config: DataConfig, rows: int, parts: int, world_size: int) -> int:
    """The number of streams: ``config.streams``, or the largest of 8, 4, 2, 1 that fits."""
    multiple = world_size * max(1, config.workers)
    for streams in [config.streams] if config.streams else _AUTOMATIC:
        if rows > 0 and rows % streams == 0 and streams <= parts and streams % multiple == 0:
            return streams
    kind = "shards" if config.format == "webdataset" else "rows"
    wanted = f"data.streams = {config.streams}" if config.streams else "data.streams = 0 (automatic: 8, 4, 2 or 1)"
    raise SettingsError(
        f"{wanted} does not fit {parts} {kind}, {world_size} ranks, data.workers = {config.workers} and {rows} rows "
        f"per window (batch x accumulation x ranks): it must be a multiple of ranks x workers = {multiple}, at most "
        f"the number of {kind}, and divide the rows per window; set data.workers = 0, "
        + ("write more, smaller shards, " if kind == "shards" else "")
        + f"or set data.streams to a multiple of {multiple} and the batch to a multiple of data.streams"
    )


class _Chunks(IterableDataset[Any]):
    """In a worker: this rank's streams ``k::workers``; in the process itself: all of them."""

    def __init__(self, source: Source, loader: WindowLoader, positions: dict[int, tuple[int, int]]) -> None:
        self.make: dict[str, Any] = {
            "source": source,
            "n_streams": loader.n_streams,
            "seed": loader.seed,
            "config": loader.config,
            "max_epochs": loader.max_epochs,
            "held_out_groups": loader._skip,
            "sieve": loader.sieve,
            "window": loader.windows,
        }
        self.positions = positions
        self.rows = loader.rows_per_stream

    def __iter__(self) -> Iterator[tuple[Chunk, torch.Tensor | None]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        mine = sorted(self.positions)[first::step]
        streams = [RowStream(stream=stream, start=self.positions[stream], **self.make) for stream in mine]
        while True:
            for stream in streams:
                chunk = stream.take(self.rows)
                yield _pack(chunk) if worker is not None else (chunk, None)


def _pack(chunk: Chunk) -> tuple[Chunk, torch.Tensor | None]:
    """Pixels as one tensor: each tensor that crosses processes takes a file descriptor, and a window has many rows."""
    if not chunk.rows:
        return chunk, None
    pixels = torch.stack([row.pixels for row in chunk.rows])
    return dataclasses.replace(chunk, rows=[dataclasses.replace(row, pixels=_EMPTY) for row in chunk.rows]), pixels


def _unpack(packed: tuple[Chunk, torch.Tensor | None]) -> Chunk:
    chunk, pixels = packed
    if pixels is not None:
        for row, row_pixels in zip(chunk.rows, pixels, strict=True):
            row.pixels = row_pixels
    return chunk
