"""``memsieve index``: what it prints, and sentences for bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from memsieve.cli import app
from tests.inference.copies.pictures import write


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder / "train", [*range(25), 3, 3, 3], broken=True)
    write(folder / "held", list(range(100, 125)))
    return folder


def test_index(shards: Path, tmp_path: Path) -> None:
    base = ["index", "--data", str(shards / "train"), "--out", str(tmp_path / "i")]
    result = CliRunner().invoke(app, [*base, "--held-out", str(shards / "held")])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert "25 distinct training images, 25 held-out images, 1 unusable" in result.output
    result = CliRunner().invoke(app, [*base, "--similarity", "sscd"])
    assert "needs --sscd FILE" in str(result.exception)
