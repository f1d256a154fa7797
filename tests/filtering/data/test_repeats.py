"""Of rows that show one picture so many a pass, others each time: on any ranks, resumed, counted."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from pydantic import ValidationError

from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.data import repeats as module
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.loader import Window, WindowLoader
from memsieve.filtering.data.pool import Ranks
from memsieve.filtering.data.repeats import find_repeats
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.data.sources import open_source
from tests.filtering.audit.keep_lists import kept_list
from tests.filtering.data.ranks import ThreadExchange, on_ranks
from tests.train.conftest import picture

Audit = Callable[..., Outcome]
ROWS = 8
TIMES = {"a": 7, "b": 4, "c": 2, **{f"single {i}": 1 for i in range(21)}}
"""Picture -> rows: 34 rows, in four shards of unequal size."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "memsieve" / "repeats"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    rows = [(name, k) for name, times in TIMES.items() for k in range(times)]
    order = [(i * 13) % len(rows) for i in range(len(rows))]
    edges = [0, 3, 16, 22, len(rows)]
    for shard, (start, stop) in enumerate(itertools.pairwise(edges)):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar"), mtime=0) as tar:
            for place in order[start:stop]:
                name, k = rows[place]
                key = f"{name.replace(' ', '-')}.{k}".replace(".", "_")
                tar.write({"__key__": key, "png": picture(list(TIMES).index(name)), "txt": name.encode()})
    return folder


def config(shards: Path, **values: Any) -> DataConfig:
    plain = {"path": str(shards), "resolution": 16, "shuffle_buffer": 4, "streams": 4, "held_out_fraction": 0.0}
    return DataConfig.model_validate(plain | values)


def read(data: DataConfig, world_size: int = 1, epochs: int = 4, **values: Any) -> list[list[Window]]:
    def work(rank: int, exchange: ThreadExchange) -> list[Window]:
        return list(WindowLoader(data, ROWS, Ranks(rank, world_size, exchange), seed=3, max_epochs=epochs, **values))

    return [list(windows) for windows in zip(*on_ranks(world_size, work), strict=True)]


def by_pass(windows: list[list[Window]]) -> dict[int, dict[str, list[str]]]:
    """Pass -> picture -> keys of its rows."""
    found: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in (row for ranks in windows for window in ranks for row in window.rows if row is not None):
        found[row.epoch][row.caption].append(row.key)
    return found


@pytest.mark.parametrize(("repeats", "most"), [("once", 1), (1, 1), (3, 3), ("all", 99)])
def test_of_each_picture_so_many_rows_a_pass_and_all_take_turns(shards: Path, repeats: str | int, most: int) -> None:
    windows = read(config(shards, repeats=repeats), epochs=7)
    passes = by_pass(windows)
    for keys in passes.values():
        assert {name: len(mine) for name, mine in keys.items()} == {n: min(t, most) for n, t in TIMES.items()}
    left = sum(max(times - most, 0) for times in TIMES.values())
    counted = sum((Counter(window.not_kept) for ranks in windows for window in ranks), Counter[str]())
    assert counted == ({"repeat": 7 * left} if left else {})
    for name, times in TIMES.items():
        seen = Counter(key for keys in passes.values() for key in keys[name])
        assert len(seen) == times, "every row has its turn"
        assert max(seen.values()) - min(seen.values()) <= 1 or most >= times
    if most == 1:
        following = [passes[epoch]["a"][0] for epoch in range(7)]
        assert len(set(following)) == 7, "another one each time"


@pytest.mark.parametrize(("world_size", "workers"), [(1, 2), (2, 0), (4, 0)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_ranks_and_workers_do_not_matter(shards: Path, world_size: int, workers: int) -> None:
    def rows(windows: list[list[Window]]) -> list[list[tuple[str, int, int] | None]]:
        return [[(row.key, row.epoch, row.offset) if row else None for window in ranks for row in window.rows]
                for ranks in windows]  # fmt: skip

    expected = read(config(shards, repeats="once"))
    found = read(config(shards, repeats="once", workers=workers), world_size)
    assert rows(found) == rows(expected)
    for ranks, alone in zip(found, expected, strict=True):
        assert sum((Counter(window.not_kept) for window in ranks), Counter[str]()) == Counter(alone[0].not_kept)


@pytest.mark.parametrize("stop", [1, 3, 6, 10])
def test_a_resume_goes_on_exactly(shards: Path, stop: int) -> None:
    data = config(shards, repeats=2)

    def told(windows: list[Window]) -> list[Any]:
        return [([row.key if row else None for row in window.rows], window.not_kept) for window in windows]

    whole = list(WindowLoader(data, ROWS, seed=3, max_epochs=4))
    loader = WindowLoader(data, ROWS, seed=3, max_epochs=4)
    first = list(itertools.islice(loader, stop))
    again = WindowLoader(data, ROWS, seed=3, max_epochs=4, state=loader.state_dict())
    assert told(first) + told(list(again)) == told(whole)


@pytest.mark.parametrize("now", ["once", "all", 3])
def test_a_position_is_one_of_the_same_setting(shards: Path, now: str | int) -> None:
    loader = WindowLoader(config(shards, repeats=2), ROWS, seed=3)
    next(iter(loader))
    with pytest.raises(ValueError, match=r"has repeats = \[2, .*set data\.repeats and data\.groups as the run"):
        WindowLoader(config(shards, repeats=now), ROWS, seed=3, state=loader.state_dict())


def test_a_pass_is_planned_without_what_it_leaves_out(shards: Path) -> None:
    assert WindowLoader(config(shards), ROWS).count_rows() == sum(TIMES.values()) == 34
    loader = WindowLoader(config(shards, repeats="once"), ROWS, max_epochs=1)
    assert loader.count_rows() == len(TIMES) == 24 and loader.windows_per_pass() == 3
    assert len(list(loader)) == 3 + 1


def test_groups_of_a_table_are_one_picture(shards: Path, tmp_path: Path) -> None:
    contents = [content_id(picture(list(TIMES).index(name))) for name in ("a", "b", "single 0")]
    table = pa.table({"content": contents, "group": [contents[0]] * 3})
    pq.write_table(table, tmp_path / "groups.parquet")
    passes = by_pass(read(config(shards, repeats="once", groups=str(tmp_path / "groups.parquet")), epochs=12))
    for keys in passes.values():
        assert sum(len(keys[name]) for name in ("a", "b", "single 0")) == 1 and len(keys["c"]) == 1
    seen = {key for keys in passes.values() for name in ("a", "b", "single 0") for key in keys[name]}
    assert len(seen) == 7 + 4 + 1


def test_names_can_be_the_identity(shards: Path) -> None:
    assert find_repeats(*opened(config(shards, repeats="once", group_by="key"))).surplus == 0  # type: ignore[union-attr]


def opened(data: DataConfig) -> tuple[Any, DataConfig, Ranks]:
    return open_source(data.path, data), data, Ranks()


def test_what_was_hashed_is_kept_until_the_shard_changes(
    shards: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in sorted(shards.iterdir()):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / file.name).write_bytes(file.read_bytes())
    data = config(tmp_path / "data", repeats="once")
    first = find_repeats(*opened(data))
    assert len(list(cache.iterdir())) == 4
    hashed: list[str] = []
    real = module._hash
    monkeypatch.setattr(module, "_hash", lambda raw, data: hashed.append(raw.shard) or real(raw, data))
    again = find_repeats(*opened(data))
    assert hashed == [] and first is not None and again is not None and again.digest == first.digest
    (tmp_path / "data" / "00000.tar").write_bytes((shards / "00001.tar").read_bytes())
    changed = find_repeats(*opened(data))
    assert {Path(name).name for name in hashed} == {"00000.tar"}
    assert changed is not None and changed.digest != first.digest


def test_a_keep_list_has_hashed_all_rows_and_what_it_takes_out_is_nobodys_repeat(
    audit: Audit, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = kept_list(audit, mixed, tmp_path)
    monkeypatch.setattr(module, "_hash", lambda *_: pytest.fail("the data was read"))
    data = {"path": str(mixed), "resolution": 16, "streams": 2, "held_out_fraction": 0.0, "keep_list": str(keep)}
    kept = find_repeats(*opened(DataConfig.model_validate(data | {"repeats": "once"})))
    assert kept is not None and kept.surplus == 0, "the list keeps one of each"


def test_datasets_of_rows_have_repeats_too(tmp_path: Path) -> None:
    for i, number in enumerate([5, 5, 5, 6, 7, 8, 9, 10]):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / f"{i}.png").write_bytes(picture(number))
        (tmp_path / "folder" / f"{i}.txt").write_text(f"pair {number}")
    data = config(tmp_path / "folder", format="folder", repeats="once", streams=2)
    passes = by_pass(read(data, epochs=3))
    assert all(len(keys["pair 5"]) == 1 and len(keys) == 6 for keys in passes.values())
    assert len({keys["pair 5"][0] for keys in passes.values()}) == 3


@pytest.mark.parametrize("value", [0, -1, "twice", 1.5])
def test_what_is_no_number_of_rows_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="repeats"):
        DataConfig.model_validate({"path": "x", "repeats": value})
