"""A run's groups as the images that they are, from the table that it was trained with and its own shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from memsieve.pages.members import MOST, members_of
from memsieve.pages.run import build_report
from tests.filtering.audit.test_joining import shard
from tests.filtering.identity.test_descriptors import scene
from tests.memsieve.auditing import run
from tests.memsieve.pages.test_groups import lighter
from tests.memsieve.pages.test_run import write_run


@pytest.fixture
def grouped(tmp_path: Path) -> dict[str, str]:
    """An audit and its table: eight images of one group, and two alone."""
    pictures = {f"a{i}": lighter(scene(0, 96), i) for i in range(MOST + 2)}
    names = shard(tmp_path / "0.tar", {"alone": scene(2, 96), **pictures, "other": scene(3, 96)})
    assert run("score", "--data", tmp_path / "0.tar", "--data-only", "--out", tmp_path / "audit").exit_code == 0
    assert run("groups", tmp_path / "audit", "--out", tmp_path / "groups.parquet").exit_code == 0
    return names


def config(tmp_path: Path, **more: Any) -> str:
    data = {"path": str(tmp_path / "0.tar"), "groups": str(tmp_path / "groups.parquet"), **more}
    return yaml.safe_dump({"data": data})


def test_a_group_is_its_images_and_their_number(grouped: dict[str, str], tmp_path: Path) -> None:
    notes: list[str] = []
    found = members_of(config(tmp_path), [grouped["alone"], grouped["a0"], "another"], notes)
    assert set(found) == {grouped["a0"]} and not notes
    assert found[grouped["a0"]].images == MOST + 2 and len(found[grouped["a0"]].pictures) == MOST
    assert all(picture.startswith("data:image/jpeg") for picture in found[grouped["a0"]].pictures)


def test_only_the_runs_own_shards_are_looked_into(grouped: dict[str, str], tmp_path: Path) -> None:
    notes: list[str] = []
    shard(tmp_path / "1.tar", {"else": scene(4, 96)})
    found = members_of(config(tmp_path, path=str(tmp_path / "1.tar")), [grouped["a0"]], notes)
    assert found[grouped["a0"]].images == MOST + 2 and found[grouped["a0"]].pictures == [] and not notes
    command = f"pipe:touch {tmp_path / 'run'}"
    found = members_of(config(tmp_path, path=command, allow_pipe=True), [grouped["a0"]], notes)
    assert found[grouped["a0"]].pictures == [] and not (tmp_path / "run").exists()
    assert "'pipe:' would run a command and is refused" in notes[0]


def test_a_table_of_ones_own_has_numbers_and_no_pictures(grouped: dict[str, str], tmp_path: Path) -> None:
    table = pa.table({"content": ["a" * 32, "b" * 32, "c" * 32], "group": ["x", "x", "y"]})
    pq.write_table(table, tmp_path / "groups.parquet")
    notes: list[str] = []
    found = members_of(config(tmp_path), ["x"], notes)
    assert (found["x"].images, found["x"].pictures, notes) == (2, [], [])
    (tmp_path / "groups.parquet").write_text("no table")
    assert members_of(config(tmp_path), ["x"], notes) == {} and "are not shown" in notes[0]


@pytest.mark.parametrize("text", [None, "", "a: [", "data: 3", "data: {path: x, nothing: 1}", "data: {path: x}"])
def test_without_a_table_in_the_config_there_is_nothing_to_say(text: str | None) -> None:
    notes: list[str] = []
    assert members_of(text, ["x"], notes) == {} and not notes


def test_the_report_shows_a_condemned_group_with_its_images(grouped: dict[str, str], tmp_path: Path) -> None:
    trained = write_run(tmp_path / "trained", steps=60, groups=4, planted=1)
    table = pq.read_table(trained / "groups.parquet").to_pylist()
    table[0]["group"] = grouped["a0"]
    pq.write_table(pa.Table.from_pylist(table), trained / "groups.parquet")
    plain = build_report(trained).read_text()
    (trained / "config.yaml").write_text(config(tmp_path))
    text = build_report(trained).read_text()
    assert f"one of {MOST + 2} images that are one group" in text and "images that are one group" not in plain
    assert text.count('alt="Image ') == MOST and 'alt="Image ' not in plain
