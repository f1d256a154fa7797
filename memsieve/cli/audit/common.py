"""What the audit's commands share: the folder, and the exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memsieve.cli.common import USELESS

if TYPE_CHECKING:
    from memsieve.filtering.audit.status import Status

__all__ = ["DAMAGED", "RunFolder", "leave", "signal_names"]

DAMAGED = 3
"""Exit code: everything was done, and some of the data is not whole."""

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the audit.")]


def signal_names(score: str | None) -> tuple[str, ...]:
    """The signals that ``--score`` joins by +."""
    return tuple(name.strip() for name in score.split("+")) if score else ()


def leave(status: Status) -> None:
    """End with the exit code of an audit's state."""
    if not status.complete:
        raise typer.Exit(1)
    if status.useless:
        raise typer.Exit(USELESS)
    if status.counts["truncated"]:
        raise typer.Exit(DAMAGED)
