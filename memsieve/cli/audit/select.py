"""``memsieve audit select``: which samples are kept, and why the others are not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from memsieve.cli.audit.common import RunFolder, signal_names
from memsieve.cli.common import USELESS, error_console, out_console

if TYPE_CHECKING:
    from memsieve.filtering.audit.select import Selection

__all__ = ["select"]


def select(
    run: RunFolder,
    out: Annotated[list[Path], typer.Option(help="Keep-list to write: .parquet, .txt or .npy. Repeatable.")],
    drop_fraction: Annotated[
        float | None, typer.Option(help="Share of pairs to take out, highest scores first.")
    ] = None,
    max_score: Annotated[float | None, typer.Option(help="Take out pairs that score higher.")] = None,
    false_drop_rate: Annotated[float | None, typer.Option(help="Share of ordinary pairs that may be lost.")] = None,
    dedup: Annotated[bool, typer.Option(help="Keep the first of samples with the same image.")] = False,
    dedup_by: Annotated[Literal["sha256", "phash"], typer.Option(help="The same bytes, or the same look.")] = "sha256",
    score: Annotated[
        str | None, typer.Option(help="magnitude, loss_gap, loss, reference_ratio, ..., joined by +.")
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="Audit of the same data by the base model.")] = None,
    held_out: Annotated[Path | None, typer.Option(help="Audit of pairs that the model was not trained on.")] = None,
    partial: Annotated[bool, typer.Option(help="Go on although shards are missing or stale.")] = False,
) -> None:
    """Make a keep-list, with a reason for every sample that is not kept. Unusable samples never are.

    Exit code 4 where nothing is kept.
    """
    from memsieve.filtering.audit.keep_list_files import write_selection
    from memsieve.filtering.audit.select import Rule, select_rows

    rule = Rule(
        signals=signal_names(score),
        drop_fraction=drop_fraction,
        max_score=max_score,
        false_drop_rate=false_drop_rate,
        dedup=dedup_by if dedup else None,
    )
    with select_rows(run, rule, reference=reference, held_out=held_out, partial=partial) as selection:
        for path in out:
            write_selection(selection, path)
    _print_selection(selection, chosen_score=score is not None)
    if not selection.counts["kept"]:
        error_console.print("nothing is kept: there is nothing to train on", style="red")
        raise typer.Exit(USELESS)


def _print_selection(selection: Selection, chosen_score: bool) -> None:
    if selection.about["rule"]["signals"] == ["magnitude"] and not chosen_score:
        error_console.print(
            "ranked by the magnitude, since no --reference was given. How much better than the base model a pair is "
            "denoised says more: audit the base model too, with the same seed and draws, and name that audit with "
            "--reference",
            style="yellow",
        )
    table = Table("samples", "number")
    for name, number in selection.counts.most_common():
        table.add_row(name, f"{number:,}")
    out_console.print(table)
    if selection.cutoff is not None:
        error_console.print(f"taken out above a score of {selection.cutoff:.6g}", highlight=False)
