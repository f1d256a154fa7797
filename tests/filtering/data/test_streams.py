"""How data is dealt to streams, and who is held out."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from PIL import Image

from filtering.data.config import DataConfig
from filtering.data.decode import group_of
from filtering.data.held_out import held_out_groups, held_out_rows, is_held_out
from filtering.data.rows import Chunk, RawRow
from filtering.data.sources import Source, open_source
from filtering.data.streams import RowStream


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(stream, "PNG")
    return stream.getvalue()


def write_shards(folder: Path, sizes: list[int], bad: tuple[int, ...] = ()) -> str:
    folder.mkdir(exist_ok=True)
    number = 0
    for shard, size in enumerate(sizes):
        with wds.TarWriter(str(folder / f"{shard}.tar")) as writer:
            for _ in range(size):
                image = b"broken" if number in bad else png(number)
                writer.write({"__key__": f"{number:03d}", "png": image, "txt": f"number {number}"})
                number += 1
    return str(folder)


class Fake:
    """Rows n000, n001, ... in parts of given sizes, without a disk."""

    def __init__(self, sizes: list[int], indexed: bool = False, error: str | None = None) -> None:
        self.sizes, self.indexed, self.identity, self.error = sizes, indexed, ["fake"], error
        self.read_parts: list[int] = []

    def __len__(self) -> int:
        return len(self.sizes)

    def count_rows(self) -> int:
        return sum(self.sizes)

    def read(self, part: int) -> Iterator[RawRow]:
        self.read_parts.append(part)
        start = sum(self.sizes[:part])
        for index in range(self.sizes[part]):
            number = start + index
            yield RawRow(f"{number:03d}", f"p{part}", index, png(number), "x", error=self.error)


def config(path: str = "unused", **values: Any) -> DataConfig:
    return DataConfig(**{"path": path, "resolution": 8, "held_out_fraction": 0.0, "shuffle_buffer": 4, **values})


def keys(chunk: Chunk) -> list[int]:
    return [int(row.key) for row in chunk.rows]


def drain(stream: RowStream, n: int = 3) -> list[int]:
    found: list[int] = []
    while True:
        chunk = stream.take(n)
        found += keys(chunk)
        if chunk.ended:
            return found


def test_order_without_shuffle_is_the_order_of_the_shards() -> None:
    streams = [RowStream(Fake([2, 3, 2, 1]), s, 2, 0, config(shuffle_buffer=0), max_epochs=2) for s in range(2)]
    assert [drain(stream) for stream in streams] == [[0, 1, 5, 6] * 2, [2, 3, 4, 7] * 2]


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("n_streams", [1, 2, 4])
@pytest.mark.parametrize("buffer", [1, 3, 100])
def test_every_row_once_per_epoch_in_one_stream(indexed: bool, n_streams: int, buffer: int) -> None:
    source = Fake([1] * 23, indexed=True) if indexed else Fake([4, 1, 7, 3, 5, 3])
    seen: list[int] = []
    for stream in range(n_streams):
        rows = RowStream(source, stream, n_streams, 5, config(shuffle_buffer=buffer), max_epochs=2)
        found = drain(rows)
        half = len(found) // 2
        assert sorted(found[:half]) == sorted(found[half:]) == sorted(set(found))
        # With few parts and next to no buffer two epochs can come out alike.
        assert n_streams == 4 or buffer == 1 or found[:half] != found[half:]
        seen += found[:half]
    assert sorted(seen) == list(range(23))


def test_rows_are_shuffled_and_seeds_differ() -> None:
    orders = {
        seed: drain(RowStream(Fake([8, 8, 8]), 0, 1, seed, config(shuffle_buffer=100), max_epochs=1)) for seed in (0, 1)
    }
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])
    assert orders[0] == drain(RowStream(Fake([8, 8, 8]), 0, 1, 0, config(shuffle_buffer=100), max_epochs=1))


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("buffer", [0, 1, 3, 100])
def test_resume_at_every_position(indexed: bool, buffer: int) -> None:
    def make(start: tuple[int, int] = (0, 0)) -> RowStream:
        source = Fake([1] * 11, indexed=True) if indexed else Fake([4, 2, 5])
        return RowStream(source, 0, 1, 9, config(shuffle_buffer=buffer, crop="random"), start=start, max_epochs=3)

    whole = make()
    positions, order = [(0, 0)], []
    while not (chunk := whole.take(1)).ended:
        order.append((keys(chunk)[0], chunk.rows[0].epoch, chunk.rows[0].offset))
        positions.append((chunk.epoch, chunk.offset))
    assert [entry[1:] for entry in order] == [(epoch, offset) for epoch in range(3) for offset in range(11)]
    for taken, position in enumerate(positions):
        stream, rest = make(position), []
        while not (chunk := stream.take(4)).ended:
            rest += chunk.rows
        rest += chunk.rows
        assert [(int(row.key), row.epoch, row.offset) for row in rest] == order[taken:]


def test_resume_of_a_map_style_source_reads_only_what_follows() -> None:
    source = Fake([1] * 50, indexed=True)
    RowStream(source, 0, 1, 0, config(), start=(2, 40)).take(2)
    assert len(source.read_parts) == 2


def test_bad_rows_are_replaced_and_named(tmp_path: Path) -> None:
    source = open_source(write_shards(tmp_path / "s", [6, 6], bad=(1, 2, 8)), config())
    stream = RowStream(source, 0, 1, 0, config(shuffle_buffer=0), max_epochs=1)
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
    assert (len(second.failed), second.ended, second.epoch, second.offset) == (1, True, 1, 0)
    third = stream.take(5)
    assert (third.rows, third.failed, third.ended) == ([], [], True)


def test_take_across_epochs() -> None:
    stream = RowStream(Fake([3]), 0, 1, 0, config(shuffle_buffer=0))
    chunk = stream.take(7)
    assert keys(chunk) == [0, 1, 2, 0, 1, 2, 0]
    assert [(row.epoch, row.offset) for row in chunk.rows][2:4] == [(0, 2), (1, 0)]
    assert (chunk.epoch, chunk.offset, chunk.ended) == (2, 1, False)


@pytest.mark.parametrize("max_epochs", [None, 1])
def test_a_stream_without_usable_rows_raises(max_epochs: int | None) -> None:
    failing = RowStream(Fake([3], error="no caption"), 0, 1, 0, config(), max_epochs=max_epochs)
    with pytest.raises(ValueError, match=r"stream 0 has no usable row in a whole epoch \(3 failed\).*: no caption"):
        failing.take(1)
    source = Fake([3])
    groups = frozenset(group_of(raw, config()) for raw in source.read(0))
    held = RowStream(source, 0, 1, 0, config(), max_epochs=max_epochs, held_out_groups=groups)
    with pytest.raises(ValueError, match=r"\(3 are held out\)"):
        held.take(1)
    # Resumed in the middle, the rows before are not known: the next whole epoch decides.
    resumed = RowStream(Fake([3], error="no"), 0, 1, 0, config(), start=(0, 2), max_epochs=1).take(1)
    assert (resumed.ended, len(resumed.failed)) == (True, 1)


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match="stream 2 is not one of 2"):
        RowStream(Fake([1, 1]), 2, 2, 0, config())
    with pytest.raises(ValueError, match="1 shards or rows cannot be dealt to 2 streams"):
        RowStream(Fake([5]), 0, 2, 0, config())
    with pytest.raises(ValueError, match="cannot start"):
        RowStream(Fake([5]), 0, 1, 0, config(), start=(0, -1))


class TestHeldOut:
    def test_the_hash_is_uniform_stable_and_nested(self) -> None:
        groups = [f"group {n}" for n in range(20000)]
        tenth = {group for group in groups if is_held_out(group, 0.1)}
        assert 0.09 < len(tenth) / len(groups) < 0.11
        assert {group for group in groups if is_held_out(group, 0.05)} < tenth
        assert not any(is_held_out(group, 0.0) for group in groups)

    def test_training_and_held_out_rows_split_the_source(self, tmp_path: Path) -> None:
        data = config(write_shards(tmp_path / "s", [40, 40], bad=(3,)), held_out_fraction=0.3)
        source = open_source(data.path, data)
        chunk = RowStream(source, 0, 1, 0, data, max_epochs=1).take(1000)
        held = held_out_rows(data, 0)
        assert sorted(chunk.held_out) == sorted(row.key for row in held)
        assert 10 < len(held) < 40
        assert sorted([*keys(chunk), *(int(row.key) for row in held), 3]) == list(range(80))
        assert all(is_held_out(row.group, 0.3) for row in held)
        assert len({(row.stream, row.epoch, row.offset) for row in held}) == len(held)

    def test_bounded_one_per_group_and_deterministic(self, tmp_path: Path) -> None:
        data = config(write_shards(tmp_path / "s", [30, 30]), held_out_fraction=0.4, held_out_max=5)
        write_shards(tmp_path / "s", [30, 30])
        first = [row.key for row in held_out_rows(data, 0)]
        assert first == [row.key for row in held_out_rows(data, 0)]
        assert len(set(first)) == 5
        double = config([data.path, data.path] if isinstance(data.path, str) else data.path, held_out_fraction=0.4)
        counts = Counter(row.group for row in held_out_rows(double, 0))
        assert set(counts.values()) == {1}

    def test_no_fraction_no_rows(self, tmp_path: Path) -> None:
        assert held_out_rows(config(write_shards(tmp_path / "s", [3])), 0) == []

    def test_a_path_of_its_own(self, tmp_path: Path) -> None:
        # Numbers 0..4 are in both; the fraction does not count then.
        held = write_shards(tmp_path / "held", [5], bad=(4,))
        data = config(write_shards(tmp_path / "s", [12]), held_out_path=held, held_out_fraction=0.4)
        groups = held_out_groups(data)
        assert groups is not None
        assert len(groups) == 5
        source: Source = open_source(data.path, data)
        chunk = RowStream(source, 0, 1, 0, data, max_epochs=1, held_out_groups=groups).take(100)
        assert sorted(keys(chunk)) == list(range(4, 12))
        assert sorted(chunk.held_out) == ["000", "001", "002", "003"]
        assert sorted(row.key for row in held_out_rows(data, 0)) == ["000", "001", "002", "003"]
        assert held_out_groups(config()) is None
