"""Every caption is looked at before a run: what would stop it is named, with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from memsieve.filtering.data.look_over import look_over, without_caption
from tests.filtering.data.of_sizes import config, write_folder, write_shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path, 12)
    (tmp_path / "003.txt").unlink()
    (tmp_path / "007.txt").write_text("")
    return tmp_path


def test_what_cannot_be_used_is_named(folder: Path) -> None:
    (folder / "009.png").write_bytes(b"no picture")
    data, told = config(str(folder), format="folder"), list[tuple[int, int]]()
    found = look_over(data, lambda done, total: told.append((done, total)))
    assert (found.rows, found.unusable) == (12, 3) and [key for key, _ in found.named] == ["003", "007", "009"]
    stops = found.stops(data)
    assert stops is not None and stops.startswith("3 of 12 samples of data.path cannot be used ('003': ")
    assert "data.max_bad is 0: the run would stop" in stops and "set data.max_bad: 3" in stops
    assert told[-1] == (12, 12)
    assert found.stops(config(str(folder), format="folder", max_bad=3)) is None


def test_captions_alone_are_looked_at_without_the_pictures(folder: Path) -> None:
    for file in folder.glob("*.png"):
        file.write_bytes(b"no picture")
    found = without_caption(config(str(folder), format="folder"))
    assert (found.rows, found.unusable) == (12, 2) and [key for key, _ in found.named] == ["003", "007"]
    assert not without_caption(config(str(folder), format="folder", allow_empty_caption=True)).unusable


def test_shards_are_looked_at_and_what_is_held_out_is_not(tmp_path: Path) -> None:
    data = config(write_shards(tmp_path, 40, broken=5), held_out_fraction=0.3)
    found = look_over(data)
    assert 20 < found.rows < 36 and [key for key, _ in found.named] in ([], ["005"])
    whole = look_over(config(str(tmp_path)))
    assert (whole.rows, whole.named) == (40, [("005", "its picture cannot be opened")])


def test_many_are_counted_and_none_is_said_too(tmp_path: Path) -> None:
    write_folder(tmp_path, 9)
    for file in tmp_path.glob("*.txt"):
        file.unlink()
    data = config(str(tmp_path), format="folder", max_bad=100)
    stops = look_over(data).stops(data)
    assert stops is not None and "; and 4 more): none can be trained on" in stops
