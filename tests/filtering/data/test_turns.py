"""Turns of a rank's streams: their order, where they start, and the chunks that travel between processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.dealing import measure_parts
from memsieve.filtering.data.rows import Chunk, Place, RawRow, Row
from memsieve.filtering.data.streams import ReadingPlan
from memsieve.filtering.data.turns import Passes, Turns, _pack, _unpack, chunks_ahead
from tests.train.conftest import picture


class Rows:
    """Eight rows that are reached one by one."""

    indexed = True
    identity = ["rows"]

    def __len__(self) -> int:
        return 8

    def count_rows(self) -> int:
        return 8

    def read(self, part: int) -> Iterator[RawRow]:
        yield RawRow(str(part), "rows", part, picture(part), "x")


def turns(streams: range) -> Turns:
    data = DataConfig(path="unused", resolution=16, held_out_fraction=0.0, shuffle_buffer=0)
    source: Any = Rows()
    return Turns(ReadingPlan(source, data, measure_parts(source, 4), 4), streams, rows=1, sieve=None)


@pytest.mark.parametrize(("workers", "streams", "ahead"), [(0, 4, 0), (1, 4, 4), (2, 4, 2), (4, 4, 2)])
def test_chunks_ahead(workers: int, streams: int, ahead: int) -> None:
    assert chunks_ahead(workers, streams) == ahead


def test_each_turn_is_one_chunk_of_each_stream_in_order_and_life_is_counted() -> None:
    mine = turns(range(2, 4))
    met: list[int] = []
    passes = Passes(mine, lambda: met.append(1))
    groups = passes.begin(0, 0, {2: Place(), 3: Place()})
    first, second = next(groups), next(groups)
    assert [(c.stream, [row.key for row in c.rows]) for c in first] == [(2, ["2"]), (3, ["3"])]
    assert [(c.stream, [row.key for row in c.rows], c.ended) for c in second] == [(2, ["6"], True), (3, ["7"], True)]
    assert met == [1], "ranks meet once"
    assert mine.alive >= 4
    again = next(passes.begin(1, 2, {2: Place(1), 3: Place(2, True)}))
    assert [([row.key for row in c.rows], c.epoch) for c in again] == [(["6"], 1), ([], 1)]


def test_pixels_travel_as_one_tensor() -> None:
    sides = [(2, 2), (1, 4), (3, 2)]
    rows = [Row(str(i), "s", i, "g", "c", torch.full((3, *side), float(i)), 0, 0, i) for i, side in enumerate(sides)]
    packed, given = _pack(Chunk(0, rows, [], [], 0, 3))
    pixels, shapes = cast("Any", given)
    assert pixels.shape == (42,) and shapes[1] == (3, 1, 4) and all(not row.pixels.numel() for row in packed.rows)
    assert rows[1].pixels.numel() == 12, "the chunk at home is left as it is"
    back = _unpack((packed, given))
    assert [float(row.pixels.mean()) for row in back.rows] == [0.0, 1.0, 2.0]
    assert [tuple(row.pixels.shape[1:]) for row in back.rows] == sides
    empty = Chunk(0, [], [], [], 0, 0)
    assert _pack(empty) == (empty, None) and _unpack((empty, None)) is empty
