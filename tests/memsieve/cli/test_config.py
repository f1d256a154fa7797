"""``memsieve config upgrade``: what is said of a file that was rewritten, and of one that need not be."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from memsieve.cli import app, main

NEW = "output: runs/x\nmodel: {path: a}\ndata: {path: b}\ntrain: {steps: 5}\n"


def test_a_file_of_today_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "[b]run.yaml"
    file.write_text(NEW)
    done = CliRunner().invoke(app, ["config", "upgrade", str(file)])
    assert done.exit_code == 0 and done.stdout == f"{file}: nothing to take out\n" and not done.stderr
    assert file.read_text() == NEW and [path.name for path in tmp_path.iterdir()] == [file.name]


def test_what_was_taken_out_is_output_and_what_no_longer_holds_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"{NEW}filter:\n  softness: 2.0\n  t_bins: 10\n")
    done = CliRunner().invoke(app, ["config", "upgrade", str(file)])
    assert done.exit_code == 0
    assert done.stdout == f"{file}: 2 settings taken out (filter.softness, filter.t_bins)\n"
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("warning: filter.softness: 2.0 holds no more")


def test_a_file_that_is_not_there_ends_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["memsieve", "config", "upgrade", str(tmp_path / "none.yaml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: config file '{tmp_path / 'none.yaml'}' does not exist; ") and said.count("\n") == 1
