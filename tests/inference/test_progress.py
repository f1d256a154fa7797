"""The bar of a long list: on standard error, away when it is done, and nothing where it is not wanted."""

from __future__ import annotations

import pytest

from memsieve.inference.progress import progress_bar


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is taken for a terminal's; in a file a bar shows nothing."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


def advance(shown: bool) -> None:
    with progress_bar(shown) as bar:
        task = bar.add_task("prompts", total=3)
        bar.advance(task, 2)
        bar.refresh()


def test_it_shows_name_and_count_on_standard_error_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """What a command prints may be read by another one."""
    advance(True)
    out, said = capsys.readouterr()
    assert not out and "prompts" in said and "2/3" in said
    assert said.endswith("\x1b[2K"), "the line is empty again"


def test_where_it_is_not_wanted_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    advance(False)
    assert capsys.readouterr() == ("", "")
