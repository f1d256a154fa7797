"""``memsieve index``: training shards by similarity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memsieve.cli.common import out_console, warn

__all__ = ["index"]


def index(
    shards: Annotated[
        list[str], typer.Option("--data", help="Shards, one .tar, an image folder, HF data. Repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the index.")],
    held_out: Annotated[
        list[str] | None, typer.Option(help="Data never trained on: how near is near by chance. Repeatable.")
    ] = None,
    similarity: Annotated[str, typer.Option(help="tiled_l2, pixel_l2, phash or sscd.")] = "tiled_l2",
    sscd: Annotated[
        Path | None, typer.Option(help="The TorchScript file of an SSCD model; left out, the extra sscd's.")
    ] = None,
) -> None:
    """Index training images by similarity; the same command goes on where it stopped."""
    from memsieve.inference.copies.index_build import build_index

    options = {"path": str(sscd)} if similarity == "sscd" and sscd is not None else {}
    built = build_index(shards, out, similarity=similarity, options=options, held_out=held_out or None)
    for error in built.errors[:5]:
        warn(error)
    null = f", {len(built.null)} held-out images" if built.null is not None else ""
    out_console.print(
        f"{len(built)} distinct training images{null}, {len(built.errors)} unusable; index in {out}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
