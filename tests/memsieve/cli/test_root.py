"""The commands by what they are for, and in the order in which they are needed, each in a file of its name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from memsieve import __version__
from memsieve.cli import app

TRAIN = ("init", "train", "report", "config")
CHECK = ("check", "detect", "evaluate-detector", "explain", "minimize", "index", "verify", "probe", "ui")
DATA = ("audit", "data")
AUDIT = ("score", "status", "select", "apply", "groups", "review", "report")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


def test_the_help_lists_them_by_what_they_are_for() -> None:
    whole: Any = typer.main.get_command(app)
    shown = {name for name, command in whole.commands.items() if not command.hidden}
    assert shown == {*TRAIN, *CHECK, *DATA} and tuple(whole.commands["audit"].commands) == AUDIT
    said = CliRunner().invoke(app, ["--help"]).output
    panels = [said.index(f"─ {name} ─") for name in ("Train", "Check a model", "Data")]
    for start, names in zip(panels, (TRAIN, CHECK, DATA), strict=True):
        places = [said.index(f"│ {name} ", start) for name in names]
        assert places == sorted(places) and not any(start < other < places[-1] for other in panels)


def test_no_help_has_markup() -> None:
    for path in [(), *commands(typer.main.get_command(app))]:
        said = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"}).output
        assert "Usage:" in said and "``" not in said and ":param" not in said, path


def test_each_stands_in_a_file_of_its_name() -> None:
    whole: Any = typer.main.get_command(app)
    for name in (*TRAIN, *CHECK, *DATA):
        if name not in ("train", "data", "audit", "config"):
            word = name.replace("-", "_")
            assert whole.commands[name].callback.__module__ == f"memsieve.cli.{word}"
            assert hasattr(import_module(f"memsieve.cli.{word}"), word)
    for name in AUDIT:
        assert whole.commands["audit"].commands[name].callback.__module__ == f"memsieve.cli.audit.{name}"


def test_the_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"memsieve {__version__}\n"
    done = subprocess.run([sys.executable, "-m", "memsieve", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"memsieve {__version__}\n"


def test_a_shell_completes_commands() -> None:
    asked = {"_MEMSIEVE_COMPLETE": "complete_bash", "COMP_WORDS": "memsieve audit s", "COMP_CWORD": "2"}
    said = CliRunner().invoke(app, [], prog_name="memsieve", env=asked).output
    assert said.split() == ["score", "status", "select"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--verbose"]])
def test_what_other_packages_say_is_left_out_unless_asked_for(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of its own: what is quiet stays so for a whole process."""
    program = (
        "import logging\n"
        "from memsieve.cli import app\n"
        "try:\n"
        f"    app([*{words!r}, 'report', 'no-run'], standalone_mode=False)\n"
        "except ValueError:\n"
        "    pass\n"
        "import deepspeed.accelerator\n"
        "logging.getLogger('DeepSpeed').warning('a warning')\n"
        "logging.getLogger('DeepSpeed').error('an error')\n"
        "from transformers.utils import logging as theirs\n"
        "theirs.get_logger('transformers.x').warning('a notice')\n"
    )
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert [("a notice" in said), ("a warning" in said)] == [bool(words)] * 2 and "an error" in said


@pytest.mark.parametrize(
    ("words", "option"),
    [(["audit", "score", "--shards", "nowhere.tar"], "--out"), (["audit", "score", "--data", "nowhere.tar"], "--out")],
)
def test_an_option_is_still_known_by_its_old_name(words: list[str], option: str) -> None:
    done = CliRunner().invoke(app, [*words, "--data-only"])
    assert isinstance(done.exception, ValueError) and f"give {option}," in str(done.exception)
