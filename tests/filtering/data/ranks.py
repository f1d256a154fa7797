"""Ranks as threads of one process, whose exchange is a barrier: what collectives give, without processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from memsieve.filtering.exchange import Exchange

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds that a rank waits for the others."""


class ThreadExchange(Exchange):
    """One rank's end of an exchange among threads."""

    def __init__(self, rank: int, barrier: threading.Barrier, board: list[Any]) -> None:
        super().__init__()
        self.place, self.barrier, self.board = rank, barrier, board
        self.moved = 0
        """Objects that this rank has given away."""

    @property
    def world_size(self) -> int:
        return len(self.board)

    @property
    def rank(self) -> int:
        return self.place

    def _everyone(self, mine: Any) -> list[Any]:
        self.board[self.place] = mine
        self.barrier.wait(PATIENCE)
        everyone = list(self.board)
        self.barrier.wait(PATIENCE)
        return everyone

    def sum(self, values: list[float]) -> list[float]:
        return [float(sum(column)) for column in zip(*self._everyone(values), strict=True)]

    def sum_tensor(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._everyone(values)).sum(0)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._everyone(rows)).flatten(0, 1)  # of one shape on all ranks, as a collective needs

    def gather_objects(self, mine: Any) -> list[Any]:
        self.moved += len(mine) if isinstance(mine, list) else 0
        return self._everyone(mine)

    def meet(self, call: str) -> None:
        self._everyone(call)


def on_ranks(world_size: int, work: Callable[[int, ThreadExchange], T]) -> list[T]:
    """What ``work`` gives on each rank; the first error of any is raised."""
    barrier, board = threading.Barrier(world_size), [None] * world_size
    results: list[Any] = [None] * world_size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(rank, ThreadExchange(rank, barrier, board))
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
