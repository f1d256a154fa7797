"""Windows of rows: their order, padding, workers and state."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import webdataset as wds
from PIL import Image

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.loader import Window, WindowLoader
from memsieve.filtering.data.mark import merge_states
from memsieve.filtering.data.pool import Ranks
from memsieve.filtering.data.sources import ShardSource
from memsieve.filtering.settings import SettingsError
from tests.filtering.data.ranks import ThreadExchange, on_ranks
from tests.filtering.data.uneven import ROWS, SIZES, config, write_uneven
from tests.filtering.data.watching import bodies_read


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_uneven(tmp_path_factory.mktemp("shards"))


def describe(windows: list[Window]) -> list[Any]:
    """Everything about windows that must not depend on who reads them."""
    found: list[Any] = []
    for window in windows:
        for row in window.rows:
            if row is None:
                found.append(None)
            else:
                position = (row.key, row.shard, row.caption, row.group, row.stream, row.epoch, row.offset)
                found.append((*position, row.pixels.sum().item(), tuple(row.pixels.shape)))
        found.append([(bad.key, bad.error) for bad in window.failed])
        found.append(window.held_out)
    return found


def read(data: DataConfig, world_size: int, count: int, rows: int = ROWS, **values: Any) -> list[list[Window]]:
    """The first ``count`` windows: for each, the windows of all ranks."""

    def work(rank: int, exchange: ThreadExchange) -> list[Window]:
        loader = WindowLoader(data, rows, Ranks(rank, world_size, exchange), seed=3, **values)
        return list(itertools.islice(loader, count))

    return [list(windows) for windows in zip(*on_ranks(world_size, work), strict=True)]


def flat(windows: list[list[Window]]) -> list[list[str | None]]:
    return [[row.key if row else None for window in ranks for row in window.rows] for ranks in windows]


def joined(windows: list[list[Window]]) -> list[Any]:
    """What all ranks together read."""
    found = []
    for ranks in windows:
        rows = [row for window in ranks for row in window.rows]
        failed = sorted((bad for window in ranks for bad in window.failed), key=lambda bad: bad.key)
        held_out = sorted(key for window in ranks for key in window.held_out)
        found.append(Window(rows, failed, held_out, all(window.ended for window in ranks)))
    return describe(found)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 2), (1, 4), (1, 8), (2, 0), (4, 0), (8, 0)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("max_epochs", [None, 2])
def test_global_rows_do_not_depend_on_ranks_and_workers(
    shards: str, world_size: int, workers: int, max_epochs: int | None
) -> None:
    expected = read(config(shards), 1, 16, max_epochs=max_epochs)
    found = read(config(shards, workers=workers), world_size, 16, max_epochs=max_epochs)
    assert all(len(window.rows) == ROWS // world_size for ranks in found for window in ranks)
    assert joined(found) == joined(expected)
    if max_epochs:
        assert [[window.ended for window in ranks] for ranks in found[-2:]] == [
            [False] * world_size,
            [True] * world_size,
        ]
        # Who has nothing left is given rows of those who have: all windows are full but the last of a pass.
        padding = [sum(row is None for window in ranks for row in window.rows) for ranks in found[:-1]]
        usable = sum(SIZES) - len({key for ranks in found for window in ranks for key in window.held_out}) - 1
        assert padding == ([0] * (usable // ROWS) + [-usable % ROWS]) * 2


def test_exact_rows_without_shuffle(shards: str) -> None:
    data = config(shards, shuffle_buffer=0, streams=4, held_out_fraction=0.0, image_key="png")
    # 36 rows: stream s reads rows 9s to 9s + 8, two in a turn. Row 009, which is broken, is in stream 1.
    expected = [
        ["000", "001", "010", "011", "018", "019", "027", "028"],
        ["002", "003", "012", "013", "020", "021", "029", "030"],
        ["004", "005", "014", "015", "022", "023", "031", "032"],
        ["006", "007", "016", "017", "024", "025", "033", "034"],
        ["008", "026", "035", None, None, None, None, None],
        ["000", "001", "010", "011", "018", "019", "027", "028"],
    ]
    assert flat(read(data, 1, 6)) == expected
    assert flat(read(data, 2, 6)) == expected
    windows = [ranks[0] for ranks in read(data, 1, 6)]
    assert [[bad.key for bad in window.failed] for window in windows] == [["009"], [], [], [], [], ["009"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_ends_after_max_epochs(shards: str, workers: int) -> None:
    data = config(shards, workers=workers, streams=4, shuffle_buffer=0, held_out_fraction=0.0)
    windows = list(WindowLoader(data, ROWS, seed=3, max_epochs=1))
    assert all(len(window.rows) == ROWS for window in windows)
    found = [row.key for window in windows for row in window.rows if row]
    assert sorted(found) == [f"{n:03d}" for n in range(36) if n != 9]
    assert [window.ended for window in windows] == [False] * 5 + [True]
    assert [sum(row is None for row in window.rows) for window in windows] == [0, 0, 0, 0, 5, 8]
    assert windows[-1].why == ""


UNEQUAL = {
    "a short last shard": ([20] * 7 + [1], 8),
    "one more shard than streams": ([6] * 9, 8),
    "one shard": ([37], 8),
    "one that holds nearly all": ([1, 60, 2, 1], 4),
    "fewer rows than a window": ([3, 2], 4),
}


@pytest.fixture(scope="module")
def make_shards(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[int]], str]:
    def make(sizes: list[int]) -> str:
        folder = tmp_path_factory.mktemp("unequal")
        number = 0
        for shard, size in enumerate(sizes):
            with wds.TarWriter(str(folder / f"{shard:02d}.tar")) as writer:
                for _ in range(size):
                    stream = io.BytesIO()
                    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(stream, "PNG")
                    writer.write({"__key__": f"{number:03d}", "png": stream.getvalue(), "txt": "x"})
                    number += 1
        return str(folder)

    return make


@pytest.mark.parametrize(("sizes", "rows"), UNEQUAL.values(), ids=UNEQUAL.keys())
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("counted", [True, False])
def test_every_sample_comes_round_equally_often_whatever_the_shards(
    make_shards: Callable[[list[int]], str], sizes: list[int], rows: int, world_size: int, counted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """After any window no sample was read more than once oftener than another."""
    if not counted:
        if len(sizes) < 2 * world_size:
            rows = 2
        monkeypatch.setattr(ShardSource, "part_rows", lambda self, most: None)
    data = config(make_shards(sizes), streams=0, held_out_fraction=0.0, shuffle_buffer=100)
    if not counted and len(sizes) == 1 and world_size == 2:
        with pytest.raises(SettingsError, match="write more, smaller shards"):
            WindowLoader(data, rows, Ranks(0, 2))
        return
    seen: Counter[str] = Counter({f"{number:03d}": 0 for number in range(sum(sizes))})
    windows = 4 * -(-sum(sizes) // rows)
    for ranks in read(data, world_size, windows, rows):
        seen.update(row.key for window in ranks for row in window.rows if row)
        assert max(seen.values()) - min(seen.values()) <= 1
    assert set(seen.values()) == {4}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 4, 5, 7, 9])
def test_resume_is_exact(shards: str, workers: int, taken: int) -> None:
    data = config(shards, workers=workers)
    whole = list(itertools.islice(WindowLoader(data, ROWS, seed=3), 12))
    loader = WindowLoader(data, ROWS, seed=3)
    first = list(itertools.islice(loader, taken))
    state = json.loads(json.dumps(loader.state_dict()))
    again = WindowLoader(config(shards, workers=0), ROWS, seed=3, state=state)
    assert again.ticks == loader.ticks
    rest = list(itertools.islice(again, 12 - taken))
    assert describe(first + rest) == describe(whole)
    # The same loader goes on too, whatever its workers had read ahead.
    assert describe(list(itertools.islice(loader, 12 - taken))) == describe(whole[taken:])


@pytest.mark.parametrize("taken", range(1, 10))
def test_resume_on_another_number_of_ranks(shards: str, taken: int) -> None:
    """At every window of two passes, those among them that leave rows of a turn for the next."""
    data = config(shards, held_out_fraction=0.3)
    whole = read(data, 1, 12)

    def work(rank: int, exchange: ThreadExchange) -> dict[str, Any]:
        loader = WindowLoader(data, ROWS, Ranks(rank, 2, exchange), seed=3)
        list(itertools.islice(loader, taken))
        return loader.state_dict()

    states = on_ranks(2, work)
    merged = json.loads(json.dumps(merge_states(states[::-1])))
    for world_size in (1, 4):
        assert joined(read(data, world_size, 12 - taken, state=merged)) == joined(whole[taken:])
    with pytest.raises(ValueError, match=r"saved by 2 ranks, lacks streams \[4, 5, 6, 7\] of rank 0 of 1; join"):
        WindowLoader(data, ROWS, seed=3, state=states[0])


def test_a_resume_passes_what_was_read_by_its_headers(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = WindowLoader(config(shards), ROWS, seed=3)
    list(itertools.islice(loader, 3))
    bodies = bodies_read(monkeypatch)
    again = WindowLoader(config(shards), ROWS, seed=3, state=loader.state_dict())
    assert again.alive == 0
    next(iter(again))
    assert again.alive >= 3 * ROWS, "passing them is a sign of life"
    assert 0 < len(bodies) <= sum(SIZES) - 3 * ROWS


def test_the_number_of_streams_is_kept_where_workers_change(shards: str) -> None:
    loader = WindowLoader(config(shards, streams=4), ROWS, seed=3)
    first = list(itertools.islice(loader, 2))
    state = loader.state_dict()
    again = WindowLoader(config(shards, workers=2), ROWS, seed=3, state=state)
    assert again.n_streams == 4
    expected = describe(list(itertools.islice(WindowLoader(config(shards, streams=4), ROWS, seed=3), 4)))
    assert describe(first + list(itertools.islice(again, 2))) == expected


@pytest.mark.parametrize(
    ("rows", "world_size", "values", "expected"),
    [
        (8, 1, {}, 8),
        (12, 1, {}, 4),
        (6, 2, {}, 2),
        (7, 1, {}, 1),
        (8, 4, {"workers": 2}, 8),
        (24, 1, {"streams": 3}, 3),
        (24, 2, {"streams": 6, "workers": 3}, 6),
        (18, 1, {"streams": 18}, 18),  # more streams than shards
    ],
)
def test_number_of_streams(shards: str, rows: int, world_size: int, values: dict[str, Any], expected: int) -> None:
    assert WindowLoader(config(shards, **values), rows, Ranks(0, world_size)).n_streams == expected


@pytest.mark.parametrize(
    ("rows", "world_size", "values"),
    [
        (7, 2, {}),
        (8, 8, {"workers": 2}),
        (16, 16, {}),
        (3, 1, {"workers": 3}),
        (8, 1, {"streams": 3}),
        (40, 1, {"streams": 40}),
        (8, 4, {"streams": 2}),
    ],
)
def test_streams_that_cannot_fit(shards: str, rows: int, world_size: int, values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        WindowLoader(config(shards, **values), rows, Ranks(0, world_size))
    message = str(caught.value)
    multiple = world_size * max(1, values.get("workers", 0))
    for part in (
        f"data.streams = {values.get('streams', 0)}",
        f" {world_size} ranks, data.workers = {values.get('workers', 0)} and {rows} rows",
        f"ranks x workers = {multiple}",
        "set data.workers = 0",
    ):
        assert part in message


def test_wrong_rank(shards: str) -> None:
    with pytest.raises(ValueError, match="rank 2 is not one of 2"):
        WindowLoader(config(shards), ROWS, Ranks(2, 2))


def test_ranks_that_cannot_speak_to_each_other(shards: str) -> None:
    with pytest.raises(ValueError, match="windows of 2 ranks are made by all of them, and the exchange joins 1"):
        next(iter(WindowLoader(config(shards), ROWS, Ranks(0, 2))))


def test_counts_rows_with_the_unusable_ones(shards: str) -> None:
    assert WindowLoader(config(shards), ROWS).count_rows() == sum(SIZES)


def test_errors_of_a_worker_reach_the_caller(shards: str) -> None:
    data = config(shards, workers=2, image_key="jpg")
    with pytest.raises(
        ValueError, match=r"no usable row in a whole pass \(36 failed\); the first failure: .* no image"
    ):
        next(iter(WindowLoader(data, ROWS)))


def test_data_without_a_usable_row_is_refused_on_all_ranks(shards: str) -> None:
    def work(rank: int, exchange: ThreadExchange) -> str:
        data = config(shards, held_out_path=shards)
        with pytest.raises(ValueError) as caught:
            next(iter(WindowLoader(data, ROWS, Ranks(rank, 2, exchange))))
        return str(caught.value)

    said = on_ranks(2, work)
    assert said[0] == said[1]
    assert "no usable row in a whole pass (36 are held out)" in said[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_global_generator_alone(shards: str, workers: int) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(iter(WindowLoader(config(shards, workers=workers), ROWS)))
    assert torch.equal(torch.get_rng_state(), before)


def test_held_out_path_is_skipped(shards: str) -> None:
    data = config(shards, held_out_path=f"{shards}/{{0..1}}.tar", streams=2, workers=2, shuffle_buffer=0)
    windows = list(WindowLoader(data, ROWS, max_epochs=1))
    assert sorted(row.key for window in windows for row in window.rows if row) == [
        f"{n:03d}" for n in range(8, 36) if n != 9
    ]
    assert sorted(key for window in windows for key in window.held_out) == [f"{n:03d}" for n in range(8)]


# Without file descriptors the workers do not fail, they hang.
@pytest.mark.timeout(60)
def test_many_rows_from_workers_take_few_file_descriptors(make_shards: Callable[[list[int]], str]) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    data = config(make_shards([300, 320]), workers=2, streams=2, held_out_fraction=0.0)
    loader = WindowLoader(data, 600)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        window = next(iter(loader))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(window.rows) == 600
    assert all(row is not None and torch.isfinite(row.pixels).all() for row in window.rows)
