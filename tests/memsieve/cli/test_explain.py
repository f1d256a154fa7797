"""``memsieve explain``: what it prints and leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from memsieve.cli import app

BASE = ["--model", str(Path(__file__).parents[3] / "assets" / "tiny-sd"), "--schedule-steps", "10"]


def test_explain(tmp_path: Path) -> None:
    words = ["explain", *BASE, "--prompt", "a sleepy red panda", "--prompt", "<b>x</b>", "--out", str(tmp_path / "e")]
    result = CliRunner().invoke(app, [*words, "--at-steps", "0,2", "--images-per-prompt", "2"])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert "sleepy" in result.output and "padding together" in result.output and "magnitude" in result.output
    found = json.loads((tmp_path / "e" / "explain.json").read_text())
    assert [w["text"] for w in found[0]["words"]] == ["a", "sleepy", "red", "panda"]
    assert all(w["significance"] > 0 for w in found[0]["words"]) and found[0]["steps"] == [0, 2]
    assert "&lt;b&gt;x&lt;/b&gt;" in (tmp_path / "e" / "explain.html").read_text()
    assert Image.open(tmp_path / "e" / "explain-2.png").size[0] > 500
    empty = CliRunner().invoke(app, ["explain", *BASE, "--prompt", " ", "--prompt", "cat"])
    assert "1 of 2 prompts are empty" in str(empty.exception) and "cat" in empty.output, "the rest was done"


def test_beside_its_base_the_drift_is_explained(tuned_run: Path, tmp_path: Path) -> None:
    words = ["explain", "--model", str(tuned_run / "pipeline"), "--prompt", "red panda", "--images-per-prompt", "1"]
    result = CliRunner().invoke(app, [*words, "--schedule-steps", "10", "--out", str(tmp_path / "e")])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    # The same bias at every pixel: epsilon is off by it.
    assert "drift 0.5" in result.output and "without the model before" not in result.output
    (found,) = json.loads((tmp_path / "e" / "explain.json").read_text())
    assert found["measure"] == "drift" and found["value"] == pytest.approx(0.5, rel=1e-3)
    assert "that of the model before fine-tuning" in (tmp_path / "e" / "explain.html").read_text()
    result = CliRunner().invoke(app, [*words, "--schedule-steps", "10", "--base", "none"])
    assert "magnitude " in result.output and "drift" not in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "cat", "--at-steps", "x"], "--at-steps = 'x'"),
        (["--prompt", "cat", "--at-steps", "10"], "must be from 0 to 9"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["explain", *BASE, *words])
    assert isinstance(result.exception, ValueError) and message in str(result.exception)
