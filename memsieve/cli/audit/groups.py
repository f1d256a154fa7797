"""``memsieve audit groups``: images that look alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memsieve.cli.audit.common import RunFolder
from memsieve.cli.common import error_console

__all__ = ["groups"]


def groups(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="Table to write, .parquet: what data.groups takes.")],
    bits: Annotated[int, typer.Option(help="Bits of 64 in which hashes of one group may differ.")] = 4,
    mirrored: Annotated[bool, typer.Option(help="Take mirrored images for the same.")] = True,
    partial: Annotated[bool, typer.Option(help="Go on although shards are missing or stale.")] = False,
) -> None:
    """Join images that look alike: near-duplicates are one pair of the filter then. Needs no scores (--data-only)."""
    from memsieve.filtering.audit.groups import group_audit

    found = group_audit(run, out, bits, mirrored, partial)
    error_console.print(
        f"{found.joined:,} of {found.images:,} images have near-duplicates: {found.groups:,} groups, the largest of "
        f"{found.largest:,}; set data.groups: {out}",
        markup=False,
        highlight=False,
    )
