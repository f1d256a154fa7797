"""``memsieve config``: YAML files of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memsieve.cli.common import out_console, warn
from memsieve.cli.paths import PathTyper

__all__ = ["config"]

config = PathTyper(no_args_is_help=True, help="Files of settings.")


@config.command()
def upgrade(file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file of a run.")]) -> None:
    """Rewrite a file of version 0.1 in today's settings, in place; FILE.old keeps what it was."""
    from memsieve.train.upgrade import upgrade_file

    taken, changed = upgrade_file(file)
    for said in changed:
        warn(said)
    out_console.print(
        f"{file}: {len(taken)} settings taken out ({', '.join(taken)})" if taken else f"{file}: nothing to take out",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
