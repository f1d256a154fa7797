"""Windows of one shape: the same for any number of ranks and workers, every row once a pass, resumable anywhere."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from memsieve.filtering.data.bucket_counts import most_windows
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.loader import Window, WindowLoader
from memsieve.filtering.data.mark import merge_states
from memsieve.filtering.data.pool import Ranks
from tests.filtering.data.of_sizes import BUCKETS, config, write_folder, write_shards
from tests.filtering.data.ranks import ThreadExchange, on_ranks
from tests.filtering.data.watching import bodies_read

ROWS, COUNT, BROKEN = 4, 34, 17
SHAPES = {(16, 16), (12, 20), (20, 12)}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_shards(tmp_path_factory.mktemp("shards"), COUNT, broken=BROKEN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_folder(tmp_path_factory.mktemp("folder"), COUNT)


def read(data: DataConfig, world_size: int = 1, count: int | None = None, **values: Any) -> list[list[Window]]:
    """The first ``count`` windows, or all: for each, the windows of all ranks."""

    def work(rank: int, exchange: ThreadExchange) -> list[Window]:
        loader = WindowLoader(data, ROWS, Ranks(rank, world_size, exchange), seed=3, **values)
        return list(itertools.islice(loader, count))

    return [list(windows) for windows in zip(*on_ranks(world_size, work), strict=True)]


def joined(windows: list[list[Window]]) -> list[Any]:
    """What all ranks together read: rows with what was drawn for them, the shape, and what could not be used."""
    found = []
    for ranks in windows:
        rows = [
            None
            if row is None
            else (row.key, row.stream, row.epoch, row.offset, row.pixels.shape, float(row.pixels.sum()))
            for window in ranks
            for row in window.rows
        ]
        failed = sorted(bad.key for window in ranks for bad in window.failed)
        held_out = sorted(key for window in ranks for key in window.held_out)
        found.append((rows, {window.shape for window in ranks}, failed, held_out, ranks[0].ended))
    return found


@pytest.mark.parametrize(("world_size", "workers"), [(1, 2), (2, 0), (4, 0)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_global_windows_do_not_depend_on_ranks_and_workers(shards: str, world_size: int, workers: int) -> None:
    values = {"held_out_fraction": 0.1}
    expected = joined(read(config(shards, **values), max_epochs=2))
    assert joined(read(config(shards, workers=workers, **values), world_size, max_epochs=2)) == expected
    assert {shape for _, (shape,), *_ in expected} == {*SHAPES, None}, "each rank says the same one"


@pytest.mark.parametrize("kind", ["shards", "folder"])
def test_every_row_comes_once_a_pass_in_windows_of_one_shape_full_but_the_last_of_each(
    kind: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(kind)
    data = config(path, format="folder" if kind == "folder" else "webdataset")
    windows = [window for (window,) in read(data, max_epochs=3)]
    assert windows.pop().ended
    usable = {f"{number:03d}" for number in range(COUNT)} - ({f"{BROKEN:03d}"} if kind == "shards" else set())
    for epoch in range(3):
        mine = [window for window in windows if any(row and row.epoch == epoch for row in window.rows)]
        keys = Counter(row.key for window in mine for row in window.rows if row)
        assert set(keys) == usable and set(keys.values()) == {1}, "nothing is dropped, nothing comes twice"
        short = [window for window in mine if None in window.rows]
        assert mine[len(mine) - len(short) :] == short, "at the end of the pass"
        assert len({window.shape for window in short}) == len(short), "one of a bucket at most"
        assert short, "that is shown"
    for window in windows:
        assert {row.pixels.shape[1:] for row in window.rows if row} == {window.shape}
    assert {window.shape for window in windows} == SHAPES


@pytest.mark.parametrize(("kind", "ranks"), [("shards", 1), ("shards", 2), ("folder", 1)])
def test_a_resume_is_exact_at_every_window(kind: str, ranks: int, request: pytest.FixtureRequest) -> None:
    """On the same number of ranks, and on another: rows that wait are read again by whoever has their stream now. The
    turns are those of the run, too: rulings of a sieve hold from a turn on."""
    data = config(request.getfixturevalue(kind), format="folder" if kind == "folder" else "webdataset")

    def run(rank: int, exchange: ThreadExchange, world_size: int = ranks, **more: Any) -> list[Any]:
        loader = WindowLoader(data, ROWS, Ranks(rank, world_size, exchange), seed=3, **more)
        return [(window, loader.ticks, loader.state_dict()) for window in itertools.islice(loader, 14)]

    whole = [list(parts) for parts in zip(*on_ranks(ranks, run), strict=True)]
    windows = joined([[window for window, *_ in parts] for parts in whole])
    ticks = [parts[0][1] for parts in whole]
    assert max(len(parts[0][2]["order"]) for parts in whole) > ROWS, "more waits than a window takes"
    assert {row[2] for rows, *_ in windows for row in rows if row} == {0, 1}
    for taken in range(1, 13):
        state = json.loads(json.dumps(merge_states([states for *_, states in whole[taken - 1]][::-1])))
        other = 3 - ranks if taken % 3 == 0 else ranks

        def again(rank: int, exchange: ThreadExchange, other: int = other, state: Any = state) -> list[Any]:
            loader = WindowLoader(data, ROWS, Ranks(rank, other, exchange), seed=3, state=state)
            assert loader.ticks == ticks[taken - 1]  # noqa: B023
            return [(window, loader.ticks) for window in itertools.islice(loader, 2)]

        rest = [list(parts) for parts in zip(*on_ranks(other, again), strict=True)]
        assert joined([[window for window, _ in parts] for parts in rest]) == windows[taken : taken + 2], (taken, other)
        assert [parts[0][1] for parts in rest] == ticks[taken : taken + 2]


def test_of_what_was_read_before_a_resume_reads_what_waits_alone(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = config(shards, shuffle_buffer=0)
    loader, seen, state = WindowLoader(data, ROWS, seed=3), list[str](), dict[str, Any]()
    for window in loader:
        seen += [row.key for row in window.rows if row]
        state = loader.state_dict()
        if len(state["order"]) > 2:
            break
    bodies = bodies_read(monkeypatch)
    next(iter(WindowLoader(data, ROWS, seed=3, state=state)))
    assert bodies and not set(bodies) & set(seen)


def test_what_waited_and_is_gone_at_the_resume_is_told(tmp_path: Path) -> None:
    path = write_folder(tmp_path, COUNT)
    data = config(path, format="folder")
    loader = WindowLoader(data, ROWS, seed=3)
    before = [row.key for window in itertools.islice(loader, 3) for row in window.rows if row]
    state = loader.state_dict()
    whole = [window for (window,) in read(data, max_epochs=1)]
    (stream, _, _, ((_, offset), *_)) = next(position for position in state["positions"] if position[3])
    places = {(row.stream, row.offset): row.key for window in whole for row in window.rows if row}
    lost = places[stream, offset]
    (tmp_path / f"{lost}.png").write_bytes(b"")
    rest = list(WindowLoader(data, ROWS, seed=3, max_epochs=1, state=state))
    keys = [row.key for window in rest for row in window.rows if row]
    assert [bad.key for window in rest for bad in window.failed] == [lost] and lost not in keys
    assert sorted([*before, *keys, lost]) == sorted(places.values())


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_pass_has_as_many_windows_as_were_counted(shards: str, folder: str, world_size: int) -> None:
    for path, kind in ((shards, "webdataset"), (folder, "folder")):
        data = config(path, format=kind)

        def work(rank: int, exchange: ThreadExchange, data: DataConfig = data) -> tuple[int, int, int]:
            loader = WindowLoader(data, ROWS, Ranks(rank, world_size, exchange), seed=3, max_epochs=1)
            said = loader.windows_per_pass()
            state = loader.state_dict()
            again = WindowLoader(data, ROWS, Ranks(rank, world_size, exchange), seed=3, state=state)
            again._check_exchange = lambda: pytest.fail("it is counted again")  # type: ignore[method-assign]
            return said, again.windows_per_pass(), sum(not window.ended for window in loader)

        assert on_ranks(world_size, work) == [(10, 10, 10)] * world_size, "of 17, 10 and 7, or 6, rows"
    assert WindowLoader(config(shards, buckets=None), ROWS).windows_per_pass() == 9


def test_large_data_is_not_counted(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where three buckets cannot make one window in a hundred, their headers are not looked at."""
    loader = WindowLoader(config(shards), ROWS, seed=3)
    monkeypatch.setattr(loader, "count_rows", lambda: 4000)
    loader.source.read = lambda *_, **__: pytest.fail("read")  # type: ignore[method-assign, assignment]
    assert loader.windows_per_pass() == most_windows(4000, ROWS, 3) == 3 + 3997 // ROWS


def test_the_most_windows_there_can_be() -> None:
    def worst(rows: int) -> int:
        splits = ((a, b, rows - a - b) for a in range(rows + 1) for b in range(rows + 1 - a))
        return max(sum(-(-count // ROWS) for count in counts) for counts in splits)

    assert [most_windows(rows, ROWS, 3) for rows in range(20)] == [worst(rows) for rows in range(20)]


def test_one_shape_in_buckets_is_the_square_of_before(shards: str) -> None:
    plain = config(shards, buckets=None)
    assert joined(read(config(shards, buckets=["16x16"]), max_epochs=1)) == joined(read(plain, max_epochs=1))


def test_held_out_pairs_are_cut_to_their_buckets(folder: str) -> None:
    from memsieve.filtering.data.held_out import held_out_rows

    rows = held_out_rows(config(folder, format="folder", held_out_path=folder), seed=3)
    assert Counter(tuple(row.pixels.shape[1:]) for row in rows) == {(16, 16): 17, (12, 20): 10, (20, 12): 7}
    assert len(BUCKETS) == 3 and all(torch.isfinite(row.pixels).all() for row in rows)
