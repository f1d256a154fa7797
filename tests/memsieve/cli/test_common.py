"""What the commands share: numbers in an option, untrusted text on a terminal, precisions by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from memsieve.cli.common import WITHOUT_BASE, base_for, numbers, open_for, plain, usable
from memsieve.inference.prompts.lists import PromptRow
from tests.memsieve.cli.conftest import TINY


def test_numbers() -> None:
    assert numbers("3, 1,2", "--steps") == [3, 1, 2] and numbers("0", "--at-steps", least=0) == [0]
    with pytest.raises(ValueError, match=r"--steps = '1,x': must be whole numbers"):
        numbers("1,x", "--steps")
    with pytest.raises(ValueError, match=r"--steps = '1,0': all must be at least 1"):
        numbers("1,0", "--steps")


def test_text_stays_text() -> None:
    assert plain("[bold]a\x1b[31m\n").plain == "[bold]a\ufffd[31m\ufffd" and not plain("[bold]a").spans
    assert len(plain("x" * 500).plain) == 200 and plain("x" * 500).plain.endswith("…")


def test_unusable_rows_are_counted_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [PromptRow(1, "a"), *(PromptRow(n, "", error=f"line {n} is bad") for n in range(2, 10))]
    assert [row.prompt for row in usable(rows, "--prompts")] == ["a"]
    said = capsys.readouterr().err
    assert "line 2 is bad" in said and "line 9 is bad" not in said and "--prompts: 8 of 9 lines could not be" in said


@pytest.mark.parametrize("purpose", WITHOUT_BASE)
def test_the_base_is_found_named_declined_or_missed(
    tuned_run: Path, purpose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One way for all commands; each says what its own work loses."""
    assert base_for(tuned_run / "pipeline", None, purpose) == str(TINY)
    assert base_for(TINY, tuned_run, purpose) == str(tuned_run) and base_for(TINY, Path("none"), purpose) is None
    assert not capsys.readouterr().err
    assert base_for(TINY, None, purpose) is None
    said = " ".join(capsys.readouterr().err.split())
    assert WITHOUT_BASE[purpose] in said and "Name it with --base, or say --base none" in said


def test_an_unknown_precision(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--dtype = 'int8': must be one of float32, bfloat16, float16"):
        open_for(tmp_path, "auto", None, "int8")
