"""The commands in the order in which they are needed, each in a file of its name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.testing import CliRunner

from memsieve import __version__
from memsieve.cli import app

COMMANDS = (
    "init", "train", "check", "detect", "evaluate-detector", "explain", "minimize", "index", "verify", "probe", "ui",
    "copies", "report", "data", "audit", "config",
)  # fmt: skip
AUDIT = ("score", "status", "select", "apply", "groups", "report")


def test_the_help_lists_them_in_order() -> None:
    whole: Any = typer.main.get_command(app)
    assert tuple(whole.commands) == COMMANDS and tuple(whole.commands["audit"].commands) == AUDIT
    said = CliRunner().invoke(app, ["--help"]).output
    places = [said.index(f"│ {name} ") for name in COMMANDS]
    assert places == sorted(places)


def test_each_stands_in_a_file_of_its_name() -> None:
    whole: Any = typer.main.get_command(app)
    files = {
        name: f"memsieve.cli.{name.replace('-', '_')}"
        for name in COMMANDS
        if name not in ("train", "data", "audit", "config")
    }
    for name, file in files.items():
        assert whole.commands[name].callback.__module__ == file and hasattr(import_module(file), file.split(".")[-1])
    for name in AUDIT:
        assert whole.commands["audit"].commands[name].callback.__module__ == f"memsieve.cli.audit.{name}"


def test_the_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"memsieve {__version__}\n"
