"""How data is dealt to streams, and who is held out."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

import pytest

from memsieve.filtering.data.decode import group_of
from memsieve.filtering.data.rows import Place, RawRow
from memsieve.filtering.data.sources import open_source
from memsieve.filtering.data.streams import LOOKED_AT, RowStream
from tests.filtering.data.reading import config, keys, open_stream, png, write_shards


class Fake:
    """Rows n000, n001, ... in parts of given sizes, without a disk."""

    def __init__(self, sizes: list[int], indexed: bool = False, error: str | None = None) -> None:
        self.sizes, self.indexed, self.identity, self.error = sizes, indexed, ["fake"], error
        self.read_parts: list[int] = []

    def __len__(self) -> int:
        return len(self.sizes)

    def count_rows(self) -> int:
        return sum(self.sizes)

    def part_rows(self, most: int) -> list[int] | None:
        return self.sizes

    def part_bytes(self) -> list[int]:
        return self.sizes

    def read(
        self,
        part: int,
        start: int = 0,
        stop: int | None = None,
        *,
        only: Container[int] | None = None,
        bodies: bool = True,
    ) -> Iterator[RawRow]:
        self.read_parts.append(part)
        first = sum(self.sizes[:part])
        for index in range(start, self.sizes[part] if stop is None else stop):
            number = first + index
            if only is None or index in only:
                yield RawRow(f"{number:03d}", f"p{part}", index, png(number), "x", error=self.error)


def drain(stream: RowStream, n: int = 3) -> list[int]:
    found: list[int] = []
    while True:
        chunk = stream.take(n)
        found += keys(chunk)
        if chunk.ended:
            return found


def test_order_without_shuffle_is_the_order_of_the_shards() -> None:
    streams = [open_stream(Fake([2, 3, 2, 1]), config(shuffle_buffer=0), s, 2, epoch=e) for e in (0, 1) for s in (0, 1)]
    assert [drain(stream) for stream in streams] == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("n_streams", [1, 2, 4])
@pytest.mark.parametrize("buffer", [1, 3, 100])
def test_every_row_once_per_pass_in_one_stream(indexed: bool, n_streams: int, buffer: int) -> None:
    source = Fake([1] * 23, indexed=True) if indexed else Fake([4, 1, 7, 3, 5, 3])
    passes = []
    for epoch in range(2):
        streams = [
            open_stream(source, config(shuffle_buffer=buffer), stream, n_streams, 5, epoch=epoch)
            for stream in range(n_streams)
        ]
        found = [drain(stream) for stream in streams]
        assert sorted(number for mine in found for number in mine) == list(range(23))
        assert max(map(len, found)) - min(map(len, found)) <= 1
        passes.append(found)
    assert passes[0] != passes[1]


def test_rows_are_shuffled_and_seeds_differ() -> None:
    orders = {seed: drain(open_stream(Fake([8, 8, 8]), config(shuffle_buffer=100), seed=seed)) for seed in (0, 1)}
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])
    assert orders[0] == drain(open_stream(Fake([8, 8, 8]), config(shuffle_buffer=100)))


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("buffer", [0, 1, 3, 100])
def test_resume_at_every_position(indexed: bool, buffer: int) -> None:
    def make(epoch: int, offset: int = 0) -> RowStream:
        source = Fake([1] * 11, indexed=True) if indexed else Fake([4, 2, 5])
        data = config(shuffle_buffer=buffer, crop="random")
        return open_stream(source, data, seed=9, epoch=epoch, place=Place(offset))

    for epoch in range(2):
        whole = make(epoch)
        order = []
        while not whole.ended:
            chunk = whole.take(1)
            order.append((keys(chunk)[0], chunk.rows[0].epoch, chunk.rows[0].offset))
            assert chunk.offset == len(order)
        assert [entry[1:] for entry in order] == [(epoch, offset) for offset in range(11)]
        for offset in range(12):
            stream, rest = make(epoch, offset), []
            while not stream.ended:
                rest += stream.take(4).rows
            assert [(int(row.key), row.epoch, row.offset) for row in rest] == order[offset:]


def test_resume_of_a_map_style_source_reads_only_what_follows() -> None:
    source = Fake([1] * 50, indexed=True)
    open_stream(source, config(), epoch=2, place=Place(40)).take(2)
    assert len(source.read_parts) == 3, "one row ahead"


def test_bad_rows_are_replaced_and_named(tmp_path: Path) -> None:
    source = open_source(write_shards(tmp_path / "s", [6, 6], bad=(1, 2, 8)), config())
    stream = open_stream(source, config(shuffle_buffer=0))
    first = stream.take(2)
    assert keys(first) == [0, 3]
    assert [(bad.key, bad.index, bad.shard) for bad in first.failed] == [
        ("001", 1, f"{tmp_path}/s/0.tar"),
        ("002", 2, f"{tmp_path}/s/0.tar"),
    ]
    assert all("not one of JPEG" in bad.error for bad in first.failed)
    assert (first.epoch, first.offset, first.ended) == (0, 4, False)
    assert [row.offset for row in first.rows] == [0, 3]
    second = stream.take(20)
    assert keys(second) == [4, 5, 6, 7, 9, 10, 11]
    assert (len(second.failed), second.ended, second.epoch, second.offset) == (1, True, 0, 12)
    third = stream.take(5)
    assert (third.rows, third.failed, third.ended) == ([], [], True)


def test_a_turn_ends_short_where_little_is_usable() -> None:
    """The other ranks wait for it."""
    source = Fake([LOOKED_AT * 4])
    groups = frozenset(group_of(raw, config()) for raw in source.read(0))
    stream = open_stream(source, config(), held_out_groups=groups)
    chunks = [stream.take(2) for _ in range(3)]
    assert [(len(chunk.held_out), chunk.ended) for chunk in chunks] == [
        (2 * LOOKED_AT, False), (2 * LOOKED_AT, True), (0, True)
    ]  # fmt: skip


def test_every_row_is_a_sign_of_life() -> None:
    seen: list[None] = []
    stream = open_stream(Fake([20]), config(), place=Place(8), alive=lambda: seen.append(None))
    stream.take(4)
    assert len(seen) >= 12


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match="stream 2 is not one of 2"):
        open_stream(Fake([1, 1]), config(), 2, 2)
    with pytest.raises(ValueError, match="cannot start"):
        open_stream(Fake([5]), config(), place=Place(-1))
