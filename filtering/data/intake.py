"""What a turn of all streams brings: which rows of which bucket, told to all ranks, on their way into the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from memsieve.filtering.data.mark import Mark
from memsieve.filtering.data.pool import Found, Held, Pool, Ranks, Waiting
from memsieve.filtering.data.rows import Chunk, FailedRow, Row
from memsieve.filtering.data.streams import ReadingPlan, read_again

__all__ = ["Intake"]

_COUNTS = 5
"""Columns before the buckets of a stream's rows in the table that ranks exchange."""


class Intake:
    """Brings rows into pools of one run.

    Args:
        plan: what all streams read by.
        rows_per_window: of all ranks.
        ranks: the rank that reads, and the others.
    """

    def __init__(self, plan: ReadingPlan, rows_per_window: int, ranks: Ranks) -> None:
        self.plan, self.rows_per_window, self.ranks = plan, rows_per_window, ranks
        self.shapes = plan.config.shapes

    def pool_at(self, mark: Mark, untold: list[Chunk], alive: Callable[[int], Callable[[], None]]) -> Pool:
        """What waits at ``mark``, this rank's rows of it read again; those that cannot be are told as failed.

        Args:
            untold: takes what is to be told.
            alive: gives what is called for each row of a stream that is passed.
        """
        pool = Pool(self.rows_per_window, self.plan.n_streams, self.ranks, list(mark.order))
        for stream, waiting in mark.waiting.items():
            offsets = [offset for _, offset in waiting]
            rows = read_again(self.plan, stream, mark.epoch, offsets, alive(stream))
            for (bucket, offset), row in zip(waiting, rows, strict=True):
                if isinstance(row, FailedRow):
                    untold.append(Chunk(stream, [], [row], [], mark.epoch, offset))
                pool.hold([Held(bucket, stream, offset, row if isinstance(row, Row) else None)])
        if mark.order:
            self.ranks.meet()  # reading may have taken some longer than a collective waits
        return pool

    def take_in(self, pool: Pool, chunks: Sequence[Chunk]) -> tuple[Found, bool]:
        """Put the rows of a turn into ``pool``: what all streams found, and whether the pass has ended. A
        collective."""
        held = list(self._held(chunks))
        buckets: dict[int, list[int]] = {chunk.stream: [] for chunk in chunks}
        for row in held:
            buckets[row.stream].append(row.bucket)
        most = self.rows_per_window // self.plan.n_streams
        mine = []
        for chunk in chunks:
            counts = [len(chunk.rows), len(chunk.failed), len(chunk.held_out), len(chunk.skipped), int(chunk.ended)]
            padding = [0] * (most - len(chunk.rows))
            mine.append([*counts, *buckets[chunk.stream], *padding])
        table = self.ranks.exchange.gather(torch.tensor(mine, dtype=torch.int64))
        usable, failed, held_out, sieved, ended = table[:, :_COUNTS].sum(0).tolist()
        pool.add(_order(table), held)
        return Found(usable, failed, held_out, sieved), ended == self.plan.n_streams

    def _held(self, chunks: Sequence[Chunk]) -> Iterator[Held]:
        for chunk in chunks:
            for row in chunk.rows:
                if len(self.shapes) > 1:  # it may wait long, and what a worker has sent is one tensor for all its rows
                    row.pixels = row.pixels.clone()
                _, height, width = row.pixels.shape
                yield Held(self.shapes.index((height, width)), chunk.stream, row.offset, row)


def _order(table: torch.Tensor) -> Iterator[Waiting]:
    """The rows of a turn, stream by stream, of the table that all ranks have."""
    for stream, (count, *values) in enumerate(table.tolist()):
        for bucket in values[_COUNTS - 1 : _COUNTS - 1 + count]:
            yield bucket, stream
