"""The loader's sieve: when rulings hold, what is skipped, and that batches stay full."""

from __future__ import annotations

import io
import itertools
import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from PIL import Image

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.loader import Window, WindowLoader
from memsieve.filtering.data.loader_sieve import RECORD_BYTES, Sieve, Sieved, SieveFile, group_digest
from memsieve.filtering.data.pool import Ranks
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.data.sources import ShardSource
from tests.filtering.data.ranks import ThreadExchange, on_ranks

ROWS = 8
DELAY = 4


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(stream, "PNG")
    return stream.getvalue()


GROUP_0 = content_id(png(0))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight shards of nine pairs, of which every third is a copy of pair 0 under a name of its own."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(8):
        with wds.TarWriter(str(folder / f"{shard}.tar")) as writer:
            for place in range(9):
                number = shard * 9 + place
                image = png(0 if place % 3 == 0 else number)
                writer.write({"__key__": f"{number:03d}", "png": image, "txt": f"number {number}"})
    return str(folder)


def config(path: str, **values: Any) -> DataConfig:
    return DataConfig(**{"path": path, "resolution": 8, "held_out_fraction": 0.0, "shuffle_buffer": 4, **values})


def told(window: Window) -> list[Any]:
    rows = [(row.key, row.epoch, row.offset) if row else None for row in window.rows]
    return [rows, [(row.key, row.stream, row.epoch, row.offset) for row in window.skipped]]


def train(data: DataConfig, path: Path, count: int, stop: int = 0) -> list[Any]:
    """Windows of a run that condemns pair 0 after its second window; ``stop``: broken off and resumed after so many."""
    file = SieveFile(path)
    loader = WindowLoader(data, ROWS, seed=3, sieve=Sieve(path))
    found = []
    for number, window in enumerate(itertools.islice(loader, stop or count), 1):
        found.append(told(window))
        rule(file, number, loader.ticks)
    if not stop:
        return found
    state, records = json.loads(json.dumps(loader.state_dict())), file.records()
    again = SieveFile(path, records)
    loader = WindowLoader(data, ROWS, seed=3, state=state, sieve=Sieve(path))
    for number, window in enumerate(itertools.islice(loader, count - stop), stop + 1):
        found.append(told(window))
        rule(again, number, loader.ticks)
    return found


def rule(file: SieveFile, number: int, tick: int) -> None:
    if number == 2:
        file.append([GROUP_0], tick + DELAY)


def test_rulings_hold_from_their_window_on(tmp_path: Path) -> None:
    file = SieveFile(tmp_path / "rank0.bin")
    sieve = Sieve(file.path)
    file.append(["a", "b"], 5)
    with file.path.open("ab") as old:  # a run of 0.1 that freed one again
        old.write(struct.pack("<16sq", group_digest("a"), 9 * 2))
    fates = {}
    for window in (4, 5, 8, 9):
        sieve.advance(window)
        fates[window] = [sieve.judge("key", group) for group in "abc"]
    skip, keep = Sieved.SKIP, Sieved.PASS
    assert fates == {4: [keep] * 3, 5: [skip, skip, keep], 8: [skip, skip, keep], 9: [keep, skip, keep]}
    assert len(file.records()) == 3 * RECORD_BYTES == 72


def test_a_record_half_written_counts_when_it_is_whole(tmp_path: Path) -> None:
    file = SieveFile(tmp_path / "rank0.bin")
    file.append(["a"], 1)
    record = file.records()
    other = tmp_path / "other.bin"
    sieve = Sieve(other)
    other.write_bytes(record + record[:10])
    sieve.advance(1)
    assert len(sieve) == 1
    file.append(["b"], 1)
    other.write_bytes(file.records())
    sieve.advance(1)
    assert len(sieve) == 2


def test_a_person_overrules(tmp_path: Path) -> None:
    file = SieveFile(tmp_path / "rank0.bin")
    file.append(["a", "b"], 1)
    sieve = Sieve(file.path, never=["a", "key 7"], always=["c"])
    sieve.advance(1)
    found = [sieve.judge(key, group) for key, group in [("", "a"), ("key 7", "b"), ("", "b"), ("", "c")]]
    assert found == [Sieved.PASS, Sieved.PASS, Sieved.SKIP, Sieved.BANNED]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("streams", [2, 4, 8])
def test_workers_and_resume_do_not_change_what_is_read(shards: str, tmp_path: Path, streams: int) -> None:
    data = config(shards, streams=streams)
    expected = train(data, tmp_path / "a.bin", 20)
    copies = {f"{shard * 9 + place:03d}" for shard in range(8) for place in (0, 3, 6)}
    passes = [{epoch for row in window[0] if row for epoch in [row[1]]} for window in expected]
    assert all(len(numbers) == 1 for numbers in passes), "a window is of one pass"
    full = [None not in window[0] for window in expected]
    ends = [number for number in range(19) if passes[number] != passes[number + 1]]
    assert all(full[number] for number in range(20) if number not in ends), "all but the last of a pass are full"
    skipped = [len(window[1]) for window in expected]
    assert not any(skipped[:4]) and sum(skipped[4:13]) > 5 and any(skipped[13:])
    assert all(key in copies for window in expected for key, *_ in window[1])
    for workers in (2, streams):
        found = train(data.model_copy(update={"workers": workers}), tmp_path / "b.bin", 20)
        assert found == expected
    assert train(data, tmp_path / "c.bin", 20, stop=7) == expected
    with_workers = data.model_copy(update={"workers": 2})
    assert train(with_workers, tmp_path / "d.bin", 20, stop=3) == expected


@pytest.mark.parametrize("ruled", [8, 9])
def test_a_ruling_near_the_end_of_a_pass_holds_from_the_same_turn_after_a_resume(
    shards: str, tmp_path: Path, ruled: int
) -> None:
    """A pass is nine windows of one turn each, and the run is broken off behind the last."""

    def read(loader: WindowLoader, file: SieveFile, first: int, last: int) -> list[Any]:
        found = []
        for number, window in enumerate(itertools.islice(loader, last - first + 1), first):
            found.append(told(window))
            file.append([GROUP_0] if number == ruled else [], loader.ticks + DELAY)
        return found

    def start(name: str, records: bytes = b"", **options: Any) -> tuple[WindowLoader, SieveFile]:
        file = SieveFile(tmp_path / name, records)
        return WindowLoader(config(shards, streams=2), ROWS, seed=3, sieve=Sieve(file.path), **options), file

    expected = read(*start("whole.bin"), 1, 18)
    assert expected[8][0][0][1] == 0 and expected[9][0][0][1] == 1
    loader, file = start("first.bin")
    found = read(loader, file, 1, 9)
    again, rulings = start("second.bin", file.records(), state=loader.state_dict())
    assert again.ticks == loader.ticks
    assert found + read(again, rulings, 10, 18) == expected


@pytest.mark.parametrize(("streams", "workers"), [(8, 0), (8, 1), (8, 2), (8, 4), (8, 8), (6, 2), (6, 3), (1, 1)])
def test_the_delay_exceeds_what_workers_have_read(shards: str, streams: int, workers: int) -> None:
    loader = WindowLoader(config(shards, streams=streams, workers=workers), 24)
    assert loader.prefetched == (0 if not workers else 2 if workers == streams else 1)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (1, 1), (2, 0)])
def test_nothing_left_ends_the_data_with_a_sentence(shards: str, tmp_path: Path, world_size: int, workers: int) -> None:
    file = SieveFile(tmp_path / "rank0.bin")
    groups = {content_id(png(number)) for number in range(72)}
    file.append(sorted(groups), 3)
    data = config(shards, workers=workers, streams=2)

    def work(rank: int, exchange: ThreadExchange) -> list[Window]:
        sieve = Sieve(file.path)
        return list(WindowLoader(data, ROWS, Ranks(rank, world_size, exchange), sieve=sieve))

    for windows in on_ranks(world_size, work):
        assert [window.ended for window in windows] == [False] * (len(windows) - 1) + [True]
        assert set(windows[-1].rows) == {None}
        assert "in a whole pass 72 rows are condemned" in windows[-1].why
        assert "begin a new run with a lower filter.false_drop_rate or filter.max_drop_fraction" in windows[-1].why
        assert not any(window.why for window in windows[:-1])


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("world_size", [1, 2])
def test_where_a_stream_loses_all_its_rows_the_run_goes_on(
    tmp_path: Path, counted: bool, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of four shards holds copies alone, so that where shards stay whole a stream has nothing left."""
    if not counted:
        monkeypatch.setattr(ShardSource, "part_rows", lambda self, most: None)
    for shard in range(4):
        with wds.TarWriter(str(tmp_path / f"{shard}.tar")) as writer:
            for place in range(9):
                number = shard * 9 + place
                writer.write({"__key__": f"{number:03d}", "png": png(0 if shard == 0 else number), "txt": "x"})
    SieveFile(tmp_path / "rank.bin").append([GROUP_0], 1)
    data = config(str(tmp_path), streams=4)

    def work(rank: int, exchange: ThreadExchange) -> list[Window]:
        sieve = Sieve(tmp_path / "rank.bin")
        loader = WindowLoader(data, ROWS, Ranks(rank, world_size, exchange), max_epochs=3, sieve=sieve)
        return list(loader)

    ranks = on_ranks(world_size, work)
    seen = Counter(row.key for windows in ranks for window in windows for row in window.rows if row)
    assert seen == {f"{number:03d}": 3 for number in range(9, 36)}
    assert sum(len(window.skipped) for windows in ranks for window in windows) == 3 * 9
    # 27 rows in windows of 8, three times: full ones, though a stream gave nothing.
    full = [all(None not in window.rows for window in windows) for windows in zip(*ranks, strict=True)]
    assert full == [True, True, True, False] * 3 + [False]
