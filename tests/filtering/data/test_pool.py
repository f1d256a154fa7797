"""Windows out of what streams give: their shape, the order of rows, which rank holds them, what a pass has found."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from memsieve.filtering.data.decode import from_levels
from memsieve.filtering.data.pool import Found, Held, Pool, Ranks
from memsieve.filtering.data.rows import Row
from tests.filtering.data.ranks import ThreadExchange, on_ranks

STREAMS = 4


def row(stream: int, offset: int) -> Row:
    return Row(f"{stream}.{offset}", "s", offset, "g", "c", torch.zeros(1), stream, 0, offset)


def held(stream: int, offset: int, bucket: int = 0) -> Held:
    return Held(bucket, stream, offset, row(stream, offset))


def windows(given: list[list[str]], rows_per_window: int, world_size: int) -> list[list[str | None]]:
    """The keys of all windows, over ranks, where turn i of stream s gives rows of the buckets ``given[i][s]``, one
    digit each."""

    def work(rank: int, exchange: ThreadExchange) -> list[list[str | None]]:
        pool = Pool(rows_per_window, STREAMS, Ranks(rank, world_size, exchange))
        share = STREAMS // world_size
        numbers: dict[int, Any] = {stream: itertools.count() for stream in range(STREAMS)}
        found = []
        for number, turn in enumerate(given):
            order = [(int(bucket), stream) for stream, buckets in enumerate(turn) for bucket in buckets]
            rows = [held(stream, next(numbers[stream]), bucket) for bucket, stream in order]
            pool.add(order, [one for one in rows if one.stream // share == rank])
            while (bucket := pool.due(number == len(given) - 1)) is not None:
                found.append([None if one is None else one.key for one in pool.window(bucket)])
        assert not pool.waiting and not pool.order
        return found

    return [[key for part in parts for key in part] for parts in zip(*on_ranks(world_size, work), strict=True)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_rows_stand_by_stream_in_the_order_of_turns_whatever_the_ranks(world_size: int) -> None:
    given = [["0", "0", "0", "0"], ["00", "", "0", "0"], ["", "", "", "000"], ["0", "0", "", ""]]
    assert windows(given, 4, world_size) == [
        ["0.0", "1.0", "2.0", "3.0"],
        ["0.1", "0.2", "2.1", "3.1"],
        ["0.3", "3.2", "3.3", "3.4"],
        ["1.1", None, None, None],
    ]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_window_is_of_one_bucket_the_one_that_filled_first(world_size: int) -> None:
    given = [["01", "01", "1", "01"], ["12", "0", "1", "10"], ["1", "", "2", "1"]]
    assert windows(given, 4, world_size) == [
        ["0.1", "1.1", "2.0", "3.1"],  # the second bucket, in the first turn
        ["0.0", "1.0", "1.2", "3.0"],
        ["0.2", "0.4", "2.1", "3.2"],  # full in the third turn, before what is left of the first is due
        ["0.3", "2.2", None, None],  # what waits longest
        ["3.3", None, None, None],
        ["3.4", None, None, None],
    ]


def test_what_waits_is_known_by_its_places() -> None:
    pool = Pool(2, 2, Ranks())
    pool.add([(1, 0), (0, 0), (1, 1)], [held(0, 3, 1), held(0, 4), held(1, 7, 1)])
    assert pool.due(False) == 1 and pool.waiting == {0: [(1, 3), (0, 4)], 1: [(1, 7)]}
    pool.window(1)
    assert (pool.order, pool.waiting) == ([(0, 0)], {0: [(0, 4)]})
    assert pool.due(False) is None and pool.due(True) == 0


def test_a_row_that_could_not_be_read_again_leaves_its_place_empty() -> None:
    pool = Pool(2, 1, Ranks(), [(0, 0), (0, 0)])
    pool.hold([Held(0, 0, 3, None), held(0, 4)])
    assert [None if one is None else one.key for one in pool.window(0)] == [None, "0.4"]


def test_rows_move_as_levels_and_lose_nothing() -> None:
    """Pictures as they are decoded travel as bytes; what is between two levels travels as it is."""
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    between = torch.full((1, 16, 16), 1 / 3)
    sent: list[torch.dtype] = []

    def work(rank: int, exchange: ThreadExchange) -> list[torch.Tensor]:
        gather = exchange.gather_objects

        def watched(mine: Any) -> list[Any]:
            sent.extend(one.pixels.dtype for _, one in mine)
            return gather(mine)

        exchange.gather_objects = watched  # type: ignore[method-assign]
        pool = Pool(4, 2, Ranks(rank, 2, exchange))
        rows = []
        for offset in range(4):
            one = row(0, offset)
            one.pixels = from_levels(levels) if offset < 3 else between
            rows.append(Held(0, 0, offset, one))
        pool.add([(0, 0)] * 4, rows if rank == 0 else [])
        return [one.pixels for one in pool.window(0) if one is not None]

    found = [pixels for part in on_ranks(2, work) for pixels in part]
    assert sorted(map(str, sent)) == ["torch.float32", "torch.uint8"]
    assert all(torch.equal(pixels, from_levels(levels)) for pixels in found[:3]) and torch.equal(found[3], between)


def test_what_a_pass_has_found_adds_up() -> None:
    assert Found(1, 2, 3, 4).plus(Found(10, 20, 30, 40)) == Found(11, 22, 33, 44)
