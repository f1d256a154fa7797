"""``memsieve copies``: how many planted and ordinary prompts come back as their training image?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from memsieve.cli.common import Model, out_console

__all__ = ["copies"]


def copies(
    model: Model,
    dataset: Annotated[Path, typer.Option("--data", help="A dataset folder with truth.parquet.")],
    out: Annotated[Path | None, typer.Option(help="Also write the verdicts as JSON.")] = None,
    seeds: Annotated[int, typer.Option(help="Generations per prompt.")] = 3,
    guidance_scale: Annotated[float, typer.Option(help="Of the generations.")] = 3.0,
    similarity: Annotated[str, typer.Option(help="pixel_l2, tiled_l2, phash.")] = "pixel_l2",
) -> None:
    """Draw planted and ordinary prompts, and say how many come back as their training image."""
    from memsieve.inference.copies.probe import probe_planted, write_result

    results = probe_planted(model, dataset, similarity=similarity, seeds=seeds, guidance_scale=guidance_scale)
    table = Table("prompts", "copies", "copy rate", "95 % interval")
    for name, result in results.items():
        rate = result.rate
        table.add_row(
            name, f"{rate.copies} of {rate.generations}", f"{rate.rate:.2f}", f"{rate.low:.2f} to {rate.high:.2f}"
        )
    out_console.print(table)
    if out is not None:
        write_result(out, **results)
