"""What tests of audits share: the command, and a caption that would run on a page."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from memsieve.cli import app

__all__ = ["HOSTILE", "run", "said"]

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["audit", *map(str, words)])


def said(result: Any) -> str:
    """All that a command printed, wherever its lines were broken."""
    return " ".join(result.output.split())
