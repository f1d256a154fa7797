"""Windows of rows: their order, padding, workers and state."""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

import pytest
import torch
import webdataset as wds
from PIL import Image

from filtering.data.config import DataConfig
from filtering.data.loader import Window, WindowLoader, merge_states
from filtering.settings import SettingsError

ROWS = 8
SIZES = [5, 3, 6, 4, 5, 2, 7, 4]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    number = 0
    for shard, size in enumerate(SIZES):
        with wds.TarWriter(str(folder / f"{shard}.tar")) as writer:
            for _ in range(size):
                stream = io.BytesIO()
                Image.new("RGB", (12, 8), (number, 0, 7)).save(stream, "PNG")
                image = b"broken" if number == 9 else stream.getvalue()
                writer.write({"__key__": f"{number:03d}", "png": image, "txt": f"number {number}"})
                number += 1
    return str(folder)


def config(path: str, **values: Any) -> DataConfig:
    defaults = {"path": path, "resolution": 8, "held_out_fraction": 0.1, "shuffle_buffer": 3, "crop": "random"}
    return DataConfig(**{**defaults, **values})


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


def read(data: DataConfig, world_size: int, count: int, **values: Any) -> list[list[Window]]:
    """The first ``count`` windows: for each, the windows of all ranks."""
    ranks = []
    for rank in range(world_size):
        loader = WindowLoader(data, ROWS, rank, world_size, seed=3, **values)
        ranks.append(list(itertools.islice(loader, count)))
    return [list(windows) for windows in zip(*ranks, strict=True)]


def flat(windows: list[list[Window]]) -> list[list[str | None]]:
    return [[row.key if row else None for window in ranks for row in window.rows] for ranks in windows]


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2), (4, 0), (4, 2), (8, 0), (1, 4)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_global_rows_do_not_depend_on_ranks_and_workers(shards: str, world_size: int, workers: int) -> None:
    def whole(windows: list[list[Window]]) -> list[Any]:
        joined = []
        for ranks in windows:
            rows = [row for window in ranks for row in window.rows]
            failed = [bad for window in ranks for bad in window.failed]
            held_out = [key for window in ranks for key in window.held_out]
            joined.append(Window(rows, failed, held_out, False))
        return describe(joined)

    expected = whole(read(config(shards), 1, 6))
    found = read(config(shards, workers=workers), world_size, 6)
    assert all(len(window.rows) == ROWS // world_size for ranks in found for window in ranks)
    assert whole(found) == expected


def test_exact_rows_without_shuffle(shards: str) -> None:
    data = config(shards, shuffle_buffer=0, streams=4, held_out_fraction=0.0, image_key="png")
    # Shards start at 0, 5, 8, 14, 18, 23, 25, 32; stream s reads shards s and s + 4. Row 009 is broken.
    expected = [
        ["000", "001", "005", "006", "008", "010", "014", "015"],
        ["002", "003", "007", "023", "011", "012", "016", "017"],
        ["004", "018", "024", "005", "013", "025", "032", "033"],
    ]
    assert flat(read(data, 1, 3)) == expected
    assert flat(read(data, 2, 3)) == expected
    windows = [ranks[0] for ranks in read(data, 1, 3)]
    assert [[bad.key for bad in window.failed] for window in windows] == [["009"], [], []]


@pytest.mark.parametrize("workers", [0, 2])
def test_ends_with_padding_after_max_epochs(shards: str, workers: int) -> None:
    data = config(shards, workers=workers, streams=4, shuffle_buffer=0, held_out_fraction=0.0)
    windows = list(WindowLoader(data, ROWS, seed=3, max_epochs=1))
    assert all(len(window.rows) == ROWS for window in windows)
    found = [row.key for window in windows for row in window.rows if row]
    assert sorted(found) == [f"{n:03d}" for n in range(36) if n != 9]
    assert [window.ended for window in windows] == [False] * (len(windows) - 1) + [True]
    # Streams hold 10, 5, 12 and 8 rows, two a window: the longest gives 6 windows and shows its end in the seventh.
    assert [sum(row is None for row in window.rows) for window in windows] == [0, 0, 1, 2, 4, 6, 8]


def test_ranks_go_on_with_padding_until_the_caller_stops(shards: str) -> None:
    data = config(shards, streams=2, shuffle_buffer=0, held_out_fraction=0.0)
    ranks = [WindowLoader(data, ROWS, rank, 2, max_epochs=1) for rank in range(2)]
    windows = [list(itertools.islice(loader, 12)) for loader in ranks]
    ends = [[window.ended for window in found].index(True) for found in windows]
    assert ends[0] > ends[1]
    assert all(window.rows == [None] * 4 and window.ended for found in windows for window in found[ends[0] + 1 :])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 4, 7])
def test_resume_is_exact(shards: str, workers: int, taken: int) -> None:
    data = config(shards, workers=workers)
    whole = list(itertools.islice(WindowLoader(data, ROWS, seed=3), 10))
    loader = WindowLoader(data, ROWS, seed=3)
    first = list(itertools.islice(loader, taken))
    state = json.loads(json.dumps(loader.state_dict()))
    again = WindowLoader(config(shards, workers=0), ROWS, seed=3, state=state)
    rest = list(itertools.islice(again, 10 - taken))
    assert describe(first + rest) == describe(whole)
    # The same loader goes on too, whatever its workers had read ahead.
    assert describe(list(itertools.islice(loader, 10 - taken))) == describe(whole[taken:])


def test_resume_on_another_number_of_ranks(shards: str) -> None:
    data = config(shards)
    whole = flat(read(data, 1, 6))
    loaders = [WindowLoader(data, ROWS, rank, 2, seed=3) for rank in range(2)]
    for loader in loaders:
        list(itertools.islice(loader, 3))
    states = [loader.state_dict() for loader in loaders]
    merged = merge_states(states[::-1])
    for world_size in (1, 4):
        assert flat(read(data, world_size, 3, state=merged)) == whole[3:]
    with pytest.raises(ValueError, match=r"saved by 2 ranks, lacks streams \[4, 5, 6, 7\] of rank 0 of 1; join"):
        WindowLoader(data, ROWS, seed=3, state=states[0])


def test_states_of_other_runs_are_refused(shards: str) -> None:
    data = config(shards)
    state = WindowLoader(data, ROWS, seed=3).state_dict()
    with pytest.raises(ValueError, match="n_streams = 8, this run has 4; set data.streams = 8"):
        WindowLoader(config(shards, streams=4), ROWS, seed=3, state=state)
    paths = [f"{shards}/{n}.tar" for n in reversed(range(8))]
    with pytest.raises(ValueError, match="has paths = .*resume on the same shards"):
        WindowLoader(data.model_copy(update={"path": paths}), ROWS, seed=3, state=state)
    with pytest.raises(ValueError, match="seed = 3, this run has 4"):
        WindowLoader(data, ROWS, seed=4, state=state)
    with pytest.raises(ValueError, match="shuffle_buffer"):
        WindowLoader(config(shards, shuffle_buffer=7), ROWS, seed=3, state=state)
    with pytest.raises(ValueError, match="no state"):
        merge_states([])
    with pytest.raises(ValueError, match="different runs"):
        merge_states([state, {**state, "seed": 9}])


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
    ],
)
def test_number_of_streams(shards: str, rows: int, world_size: int, values: dict[str, Any], expected: int) -> None:
    assert WindowLoader(config(shards, **values), rows, 0, world_size).n_streams == expected


@pytest.mark.parametrize(
    ("rows", "world_size", "values"),
    [
        (7, 2, {}),
        (8, 8, {"workers": 2}),
        (16, 16, {}),
        (3, 1, {"workers": 3}),
        (8, 1, {"streams": 3}),
        (9, 1, {"streams": 9}),
        (8, 4, {"streams": 2}),
    ],
)
def test_streams_that_cannot_fit(shards: str, rows: int, world_size: int, values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        WindowLoader(config(shards, **values), rows, 0, world_size)
    message = str(caught.value)
    multiple = world_size * max(1, values.get("workers", 0))
    for part in (
        f"data.streams = {values.get('streams', 0)}",
        f"8 shards, {world_size} ranks, data.workers = {values.get('workers', 0)} and {rows} rows",
        f"ranks x workers = {multiple}",
        "set data.workers = 0",
    ):
        assert part in message


def test_wrong_rank(shards: str) -> None:
    with pytest.raises(ValueError, match="rank 2 is not one of 2"):
        WindowLoader(config(shards), ROWS, 2, 2)


def test_counts_rows_with_the_unusable_ones(shards: str) -> None:
    assert WindowLoader(config(shards), ROWS).count_rows() == sum(SIZES)


def test_errors_of_a_worker_reach_the_caller(shards: str) -> None:
    data = config(shards, workers=2, image_key="jpg")
    with pytest.raises(ValueError, match="no usable row in a whole epoch"):
        next(iter(WindowLoader(data, ROWS)))


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
def test_many_rows_from_workers_take_few_file_descriptors(shards: str) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    loader = WindowLoader(config(shards, workers=2, streams=2), 600)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        window = next(iter(loader))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(window.rows) == 600
    assert all(row is not None and torch.isfinite(row.pixels).all() for row in window.rows)
