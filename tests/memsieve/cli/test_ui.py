"""``memsieve ui`` where the page cannot be had, or not for these words; the page itself: tests/inference/ui."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memsieve.cli import app, main


def test_the_command_says_what_is_missing(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(sys, "argv", ["memsieve", "ui", "--model", str(model)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "[ui]'" in " ".join(capsys.readouterr().err.split())


def test_the_prompts_and_the_model_are_looked_at_before_the_page(model: Path, tmp_path: Path) -> None:
    cases = {
        ("--model", tmp_path / "nowhere"): "nowhere",
        ("--model", model, "--ordinary", tmp_path / "none.txt"): "--ordinary",
        ("--model", model, "--dtype", "int8"): "--dtype = 'int8': must be one of",
        ("--model", model, "--images-per-prompt", "0"): "--images-per-prompt = 0: must be at least 1",
    }
    for words, message in cases.items():
        result = CliRunner().invoke(app, ["ui", *map(str, words)])
        assert isinstance(result.exception, ValueError) and message in str(result.exception), words
