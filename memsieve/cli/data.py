"""``memsieve data``: captioned datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from memsieve.cli.common import error_console
from memsieve.cli.paths import PathTyper

__all__ = ["data"]

data = PathTyper(no_args_is_help=True, help="Build captioned datasets.")


@data.command("openmoji")
def openmoji(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="Decides split, planted pairs and order.")] = 0,
    plant: Annotated[list[str] | None, typer.Option(help="PAIRSxREPEATS, for example 6x2000. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most this many images.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier dataset.")] = False,
) -> None:
    """Render OpenMoji into WebDataset shards with train / held-out splits, and plant duplicates."""
    from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji

    with Progress(console=error_console) as progress:
        task = progress.add_task("drawing")
        summary = build_openmoji(
            out,
            DatasetPlan(size=size, seed=seed, plant=plant or [], limit=limit),
            overwrite=overwrite,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    error_console.print({name: value for name, value in summary.items() if isinstance(value, int | str)})
