"""``memsieve audit apply``: shards of what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from memsieve.cli.common import error_console

__all__ = ["apply"]


def apply(
    keep: Annotated[Path, typer.Argument(metavar="KEEP", help="A keep-list in Parquet.")],
    out: Annotated[Path, typer.Option(help="Folder for the shards; the same command goes on with it.")],
) -> None:
    """Write shards of what is kept, members' bytes as they are; the rest to rejected/ with reasons."""
    from memsieve.filtering.audit.apply import apply_keep_list

    with Progress(console=error_console) as progress:
        bar = progress.add_task("copying", total=None)
        done = apply_keep_list(keep, out, lambda count, total: progress.update(bar, completed=count, total=total))
    aside = ", ".join(f"{number:,} {reason}" for reason, number in done.rejected.most_common()) or "none"
    error_console.print(
        f"{done.kept:,} samples kept in '{out}'; set aside: {aside}", markup=False, soft_wrap=True, highlight=False
    )
    if done.lost:
        error_console.print(
            f"{done.lost:,} of these were cut off in their shard and have no bytes to copy", style="yellow"
        )
