"""``memsieve index``: what it prints, and sentences for bad input."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from memsieve.cli import app


def test_index(shards: Path, tmp_path: Path) -> None:
    base = ["index", "--data", str(shards / "train"), "--out", str(tmp_path / "i")]
    result = CliRunner().invoke(app, [*base, "--held-out", str(shards / "held")])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert "25 distinct training images, 25 held-out images, 1 unusable" in result.output
    missing = [*base, "--similarity", "sscd", "--sscd", str(tmp_path / "no.pt")]
    assert "needs the TorchScript file" in str(CliRunner().invoke(app, missing).exception)
