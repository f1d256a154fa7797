"""Commands run on the tiny base."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from memsieve.cli import app

ROOT = Path(__file__).parents[3]


BASE = ["--model", str(ROOT / "assets" / "tiny-sd"), "--schedule-steps", "10", "--batch", "8"]


def invoke(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output
