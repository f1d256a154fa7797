"""A path of a config that is not found: where it was looked for, and the one beside the config."""

from __future__ import annotations

from pathlib import Path

import pytest

from memsieve.filtering.beside import not_found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "other" / "shards").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def said(path: str, config: Path) -> str | None:
    return not_found(ValueError(f"data.path = '{path}': nothing is found"), {"data": {"path": path}}, config)


@pytest.mark.parametrize("path", ["shards", "shards/{0..3}.tar", "shards/*.tar"])
def test_the_one_beside_the_config_is_offered(path: str, here: Path) -> None:
    config = Path("../other/c.yaml")
    found = said(path, config)
    assert found is not None and f"in the working folder, '{here / 'work'}'" in found
    assert f"set data.path: ../other/{path}, or run the command there" in found


def test_where_there_is_none_the_working_folder_is_said(here: Path) -> None:
    assert said("data/a.tar", Path("../other/c.yaml")) == (
        f"'data/a.tar' was looked for in the working folder, '{here / 'work'}'"
    )


def test_what_is_no_missing_path_is_left_alone(here: Path) -> None:
    config = here / "other" / "c.yaml"
    for path in ("s3://bucket/x.tar", str(here / "nowhere"), "word"):
        assert said(path, config) is None
    (here / "work" / "shards").mkdir()
    assert said("shards", config) is None
    assert not_found(ValueError("train.steps = 0"), {"data": {"path": "shards"}}, config) is None
