"""How a pass is dealt: every row once, equally many to each stream, whatever the shards' sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import webdataset as wds

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.dealing import PartSizes, Piece, deal, measure_parts
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.data.sources import ShardSource


class Parts:
    """A source that is only as large as it says."""

    def __init__(self, sizes: list[int], indexed: bool = False, counted: bool = True) -> None:
        self.sizes, self.indexed, self.counted, self.identity = sizes, indexed, counted, ["parts"]
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, part: int) -> Iterator[RawRow]:
        raise AssertionError("dealing reads nothing")

    def count_rows(self) -> int:
        return sum(self.sizes)

    def part_rows(self, most: int) -> list[int] | None:
        self.asked.append(most)
        return self.sizes if self.counted and len(self.sizes) <= most else None

    def part_bytes(self) -> list[int]:
        return [size * 1000 + 512 for size in self.sizes]


def rows_of(mine: list[Piece], sizes: list[int]) -> list[tuple[int, int]]:
    return [(p.part, row) for p in mine for row in range(p.start, sizes[p.part] if p.stop is None else p.stop)]


SIZES = {
    "a short last shard": [200] * 7 + [4],
    "one more shard than streams": [50] * 9,
    "one shard": [37],
    "fewer rows than streams": [2, 1],
    "an empty shard": [5, 0, 9],
    "one that holds nearly all": [1, 1, 500, 1],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("n_streams", [1, 3, 8])
@pytest.mark.parametrize("shuffled", [True, False])
def test_counted_shards_are_dealt_equally_to_within_a_row(sizes: list[int], n_streams: int, shuffled: bool) -> None:
    source = Parts(sizes)
    for epoch in range(3):
        dealt = deal(source, measure_parts(source, n_streams), n_streams, 7, epoch, shuffled)
        rows = [rows_of(mine, sizes) for mine in dealt]
        expected = [(part, row) for part, size in enumerate(sizes) for row in range(size)]
        assert sorted(row for mine in rows for row in mine) == expected
        counts = [len(mine) for mine in rows]
        assert max(counts) - min(counts) <= 1
        if not shuffled:
            assert [row for mine in rows for row in mine] == expected
        # The end of every shard, and a shard without rows, is looked at by somebody: damage is found there.
        open_ends = Counter(piece.part for mine in dealt for piece in mine if piece.stop is None)
        assert open_ends == Counter(range(len(sizes)))


def test_every_pass_is_dealt_anew_and_by_the_seed() -> None:
    source = Parts([40] * 4)
    sizes = measure_parts(source, 4)
    dealt = [deal(source, sizes, 4, seed, epoch, True) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert dealt[0] != dealt[1] != dealt[2] != dealt[0]
    assert deal(source, sizes, 4, 0, 0, True) == dealt[0]


def test_a_stretch_of_a_shard_is_spread_over_streams() -> None:
    """So that a stream is not emptied where one stretch of the data is condemned."""
    sizes = [400, 400]
    source = Parts(sizes)
    first = [(0, row) for row in range(200)]
    for epoch in range(5):
        dealt = deal(source, measure_parts(source, 4), 4, 3, epoch, True)
        shares = [len(set(rows_of(mine, sizes)) & set(first)) / 200 for mine in dealt]
        assert max(shares) < 0.7


@pytest.mark.parametrize("n_streams", [2, 8])
def test_shards_that_are_not_counted_stay_whole_and_are_evened_out_by_bytes(n_streams: int) -> None:
    sizes = [300, 10, 20, 250, 30, 280, 40, 50, 60, 270, 100, 200, 90, 110, 120, 260]
    source = Parts(sizes, counted=False)
    measured = measure_parts(source, n_streams)
    assert measured.rows is None
    dealt = deal(source, measured, n_streams, 0, 0, True)
    assert sorted(piece.part for mine in dealt for piece in mine) == list(range(len(sizes)))
    assert all(piece == Piece(piece.part) for mine in dealt for piece in mine)
    loads = [sum(sizes[piece.part] for piece in mine) for mine in dealt]
    assert max(loads) - min(loads) <= max(sizes) / 2
    plain = deal(source, measured, n_streams, 0, 0, False)
    assert [[piece.part for piece in mine] for mine in plain] == [
        list(range(stream, len(sizes), n_streams)) for stream in range(n_streams)
    ]


def test_many_shards_are_not_counted() -> None:
    assert measure_parts(Parts([3] * 65), 8).rows is None
    assert measure_parts(Parts([3] * 64), 8).rows is not None
    assert measure_parts(Parts([3] * 100), 32).rows is not None, "whole shards would not even out"


@pytest.mark.parametrize("count", [1, 5, 23])
def test_rows_that_are_reached_one_by_one_are_dealt_as_rows(count: int) -> None:
    source = Parts([1] * count, indexed=True)
    dealt = deal(source, PartSizes(None, []), 4, 0, 0, True)
    assert sorted(piece.part for mine in dealt for piece in mine) == list(range(count))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert not source.asked


def test_counting_that_takes_long_shows_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for shard in range(3):
        with wds.TarWriter(str(tmp_path / f"{shard}.tar")) as writer:
            writer.write({"__key__": "a", "png": b"x", "txt": "x"})
    monkeypatch.setattr("memsieve.filtering.data.sources._SAY_AFTER", 0.0)
    assert ShardSource(str(tmp_path), DataConfig(path=str(tmp_path))).count_rows() == 3
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "counting samples: 1 of 3 shards", "counting samples: 2 of 3 shards"
    ]  # fmt: skip
