"""Windows out of what streams give: the order of rows, which rank holds them, what a pass has found."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from memsieve.filtering.data.pool import Found, Pool, Ranks, Tick
from memsieve.filtering.data.rows import Chunk, Row
from tests.filtering.data.ranks import ThreadExchange, on_ranks

STREAMS = 4


def row(stream: int, offset: int) -> Row:
    return Row(f"{stream}.{offset}", "s", offset, "g", "c", torch.zeros(1), stream, 0, offset)


def windows(given: list[list[int]], rows_per_window: int, world_size: int) -> list[list[str | None]]:
    """The keys of all windows, over ranks, where turn i of stream s gives ``given[i][s]`` rows."""

    def work(rank: int, exchange: ThreadExchange) -> list[list[str | None]]:
        pool = Pool(rows_per_window, STREAMS, Ranks(rank, world_size, exchange))
        share = STREAMS // world_size
        numbers: dict[int, Any] = {stream: itertools.count() for stream in range(STREAMS)}
        found = []
        for number, counts in enumerate(given):
            mine = range(rank * share, (rank + 1) * share)
            chunks = [
                Chunk(stream, [row(stream, next(numbers[stream])) for _ in range(counts[stream])], [], [], 0, 0)
                for stream in mine
            ]
            pool.add(Tick(number, {}, Found(), counts), chunks)
            while len(pool) >= rows_per_window or (number == len(given) - 1 and len(pool)):
                found.append([None if one is None else one.key for one in pool.window()])
        return found

    return [[key for part in parts for key in part] for parts in zip(*on_ranks(world_size, work), strict=True)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_rows_stand_by_stream_in_the_order_of_turns_whatever_the_ranks(world_size: int) -> None:
    given = [[1, 1, 1, 1], [2, 0, 1, 1], [0, 0, 0, 3], [1, 1, 0, 0]]
    assert windows(given, 4, world_size) == [
        ["0.0", "1.0", "2.0", "3.0"],
        ["0.1", "0.2", "2.1", "3.1"],
        ["0.3", "3.2", "3.3", "3.4"],
        ["1.1", None, None, None],
    ]


def test_rows_that_were_used_before_are_discarded() -> None:
    pool = Pool(4, 2, Ranks())
    pool.add(Tick(0, {}, Found(), [2, 2]), [Chunk(s, [row(s, 0), row(s, 1)], [], [], 0, 0) for s in (0, 1)])
    assert pool.discard(3) == 3 and [one.key for one in pool.window() if one] == ["1.1"]
    assert pool.discard(5) == 0


def test_a_turn_is_forgotten_when_its_rows_are_taken() -> None:
    pool = Pool(2, 2, Ranks())
    for number in range(2):
        two = [row(1, 2 * number), row(1, 2 * number + 1)]
        chunks = [Chunk(0, [row(0, number)], [], [], 0, 0), Chunk(1, two, [], [], 0, 0)]
        pool.add(Tick(number, {}, Found(), [1, 2]), chunks)
    pool.window()
    assert [(tick.number, tick.taken, tick.left) for tick in pool.ticks] == [(0, 2, 1), (1, 0, 3)]
    pool.window()
    assert [(tick.number, tick.taken, tick.left) for tick in pool.ticks] == [(1, 1, 2)]


def test_what_a_pass_has_found_adds_up() -> None:
    assert Found(1, 2, 3, 4).plus(Found(10, 20, 30, 40)) == Found(11, 22, 33, 44)
