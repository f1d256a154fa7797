"""``memsieve audit review``: the page on which groups are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["review"]


def review(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="What 'memsieve audit groups' wrote.")],
    out: Annotated[Path | None, typer.Option(help="The page; the name of TABLE with .html by default.")] = None,
    trained: Annotated[
        Path | None, typer.Option(help="Folder of a training run: also show what its filter condemned.")
    ] = None,
) -> None:
    """One self-contained page of groups: the largest, and those nearest to the threshold, picture beside picture.

    What is split and joined on it by a click is exported as a file for 'memsieve audit groups --decisions'.
    """
    from memsieve.pages.groups import build_groups_page

    print(build_groups_page(table, table.with_suffix(".html") if out is None else out, trained))
