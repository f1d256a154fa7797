"""``memsieve report``: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the page; RUN/report.html by default.")] = None,
    comparison: Annotated[Path | None, typer.Option(help="JSON of copy rates to show with it.")] = None,
) -> None:
    """One self-contained page of a run: who was dropped, when, why."""
    from memsieve.pages.run import build_report

    print(build_report(run_folder, out, comparison))
