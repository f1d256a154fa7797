"""The loader's sieve: when rulings hold, what is skipped, and that batches stay full."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from PIL import Image

from filtering.data.config import DataConfig
from filtering.data.loader import Window, WindowLoader
from filtering.data.rows import content_id
from filtering.data.sieve import RECORD_BYTES, Sieve, Sieved, SieveFile

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


def train(data: DataConfig, path: Path, count: int, retest_every: int = 0, stop: int = 0) -> list[Any]:
    """Windows of a run that condemns pair 0 after its second window and pardons it after its eighth; ``stop``: broken
    off and resumed after so many windows."""
    file = SieveFile(path)
    loader = WindowLoader(data, ROWS, seed=3, sieve=Sieve(path, retest_every))
    found = []
    for number, window in enumerate(itertools.islice(loader, stop or count), 1):
        found.append(told(window))
        rule(file, number)
    if not stop:
        return found
    state, records = json.loads(json.dumps(loader.state_dict())), file.records()
    again = SieveFile(path, records)
    loader = WindowLoader(data, ROWS, seed=3, state=state, sieve=Sieve(path, retest_every))
    for number, window in enumerate(itertools.islice(loader, count - stop), stop + 1):
        found.append(told(window))
        rule(again, number)
    return found


def rule(file: SieveFile, number: int) -> None:
    if number in (2, 8):
        file.append([(GROUP_0, number == 2)], number + DELAY)


def test_rulings_hold_from_their_window_on(tmp_path: Path) -> None:
    file = SieveFile(tmp_path / "rank0.bin")
    sieve = Sieve(file.path)
    file.append([("a", True), ("b", True)], 5)
    file.append([("a", False)], 9)
    fates = {}
    for window in (4, 5, 8, 9):
        sieve.advance(window)
        fates[window] = [sieve.judge("key", group, (0, 0, 0)) for group in "abc"]
    skip, keep = Sieved.SKIP, Sieved.PASS
    assert fates == {4: [keep] * 3, 5: [skip, skip, keep], 8: [skip, skip, keep], 9: [keep, skip, keep]}
    assert len(file.records()) == 3 * RECORD_BYTES == 72


def test_a_record_half_written_counts_when_it_is_whole(tmp_path: Path) -> None:
    file = SieveFile(tmp_path / "rank0.bin")
    file.append([("a", True)], 1)
    record = file.records()
    other = tmp_path / "other.bin"
    sieve = Sieve(other)
    other.write_bytes(record + record[:10])
    sieve.advance(1)
    assert len(sieve) == 1
    file.append([("b", True)], 1)
    other.write_bytes(file.records())
    sieve.advance(1)
    assert len(sieve) == 2


def test_a_person_overrules(tmp_path: Path) -> None:
    file = SieveFile(tmp_path / "rank0.bin")
    file.append([("a", True), ("b", True)], 1)
    sieve = Sieve(file.path, never=["a", "key 7"], always=["c"])
    sieve.advance(1)
    found = [sieve.judge(key, group, (0, 0, 0)) for key, group in [("", "a"), ("key 7", "b"), ("", "b"), ("", "c")]]
    assert found == [Sieved.PASS, Sieved.PASS, Sieved.SKIP, Sieved.BANNED]


def test_some_visits_are_let_through_whoever_reads_them(tmp_path: Path) -> None:
    file = SieveFile(tmp_path / "rank0.bin")
    file.append([("a", True)], 1)
    sieve = Sieve(file.path, retest_every=10)
    sieve.advance(1)
    fates = [sieve.judge("key", "a", (0, epoch, offset)) for epoch in range(10) for offset in range(200)]
    assert set(fates) == {Sieved.SKIP, Sieved.RETEST}
    assert 150 < fates.count(Sieved.RETEST) < 250
    again = [sieve.judge("key", "a", (0, epoch, offset)) for epoch in range(10) for offset in range(200)]
    assert fates == again


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("streams", [2, 4, 8])
def test_workers_and_resume_do_not_change_what_is_read(shards: str, tmp_path: Path, streams: int) -> None:
    data = config(shards, streams=streams)
    expected = train(data, tmp_path / "a.bin", 20, retest_every=5)
    copies = {f"{shard * 9 + place:03d}" for shard in range(8) for place in (0, 3, 6)}
    read = [[key for key, *_ in window[0]] for window in expected]
    assert all(len(keys) == ROWS for keys in read), "batches stay full"
    skipped = [len(window[1]) for window in expected]
    assert not any(skipped[:5]) and sum(skipped[5:11]) > 5 and not any(skipped[11:])
    assert all(key in copies for window in expected for key, *_ in window[1])
    for workers in (2, streams):
        found = train(data.model_copy(update={"workers": workers}), tmp_path / "b.bin", 20, retest_every=5)
        assert found == expected
    assert train(data, tmp_path / "c.bin", 20, retest_every=5, stop=7) == expected
    with_workers = data.model_copy(update={"workers": 2})
    assert train(with_workers, tmp_path / "d.bin", 20, retest_every=5, stop=3) == expected


@pytest.mark.parametrize(("streams", "workers"), [(8, 0), (8, 1), (8, 2), (8, 4), (8, 8), (6, 2), (6, 3), (1, 1)])
def test_the_delay_exceeds_what_workers_have_read(shards: str, streams: int, workers: int) -> None:
    loader = WindowLoader(config(shards, streams=streams, workers=workers), 24)
    assert loader.prefetched == (0 if not workers else 2 if workers == streams else 1)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("retest_every", [0, 2])
def test_nothing_left_ends_with_a_sentence(shards: str, tmp_path: Path, workers: int, retest_every: int) -> None:
    file = SieveFile(tmp_path / "rank0.bin")
    groups = {content_id(png(number)) for number in range(72)}
    file.append([(group, True) for group in sorted(groups)], 3)
    loader = WindowLoader(config(shards, workers=workers, streams=1), ROWS, sieve=Sieve(file.path, retest_every))
    with pytest.raises(ValueError, match=r"no usable row in a whole epoch \(72 are condemned.*nothing to train on"):
        list(itertools.islice(loader, 200))
