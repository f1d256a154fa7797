"""``memsieve audit``: score a dataset offline, look at it, and get a keep-list and clean shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from memsieve.cli.audit_score import DAMAGED, score
from memsieve.cli.common import USELESS
from memsieve.cli.paths import PathTyper

if TYPE_CHECKING:
    from memsieve.filtering.audit.status import Status

__all__ = ["audit"]

audit = PathTyper(no_args_is_help=True, help=__doc__)
audit.command()(score)
_console = Console(stderr=True, emoji=False)  # a key between colons is not an emoji

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the audit.")]


@audit.command()
def status(
    run: RunFolder,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What is done, missing, stale or truncated, and when it will be finished.

    Exit code 1 where shards are missing, stale or gone; 3 where all are done and some are truncated or damaged; 4 where
    all are done and no sample can be used.
    """
    from memsieve.filtering.audit.status import audit_status, why_useless

    found = audit_status(run)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        table = Table("shards", "number")
        for name in ("done", "missing", "stale", "gone"):
            table.add_row(name, f"{found.counts[name]:,}")
        table.add_row("truncated or damaged", f"{found.counts['truncated']:,}")
        table.add_section()
        for name, number in sorted(found.statuses.items()):
            table.add_row(f"samples: {name}", f"{number:,}")
        Console(emoji=False).print(table)
        for state in [state for state in found.states if state.state != "done"][:10]:
            _console.print(f"{state.state}: {state.task.name}: {state.why}", markup=False, highlight=False)
        if found.eta_seconds:
            _console.print(f"about {_duration(found.eta_seconds)} left, at the rate of the last shards")
    if found.useless:
        _console.print(why_useless(run), style="red", markup=False, highlight=False, soft_wrap=True)
    _leave(found)


def _leave(status: Status) -> None:
    """End with the exit code of an audit's state."""
    if not status.complete:
        raise typer.Exit(1)
    if status.useless:
        raise typer.Exit(USELESS)
    if status.counts["truncated"]:
        raise typer.Exit(DAMAGED)


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    return f"{hours} hours" if minutes >= 120 else f"{minutes} minutes" if minutes else f"{seconds:.0f} s"


@audit.command()
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
    from memsieve.filtering.audit.select import Rule, select_rows, write_selection

    rule = Rule(
        signals=tuple(name.strip() for name in score.split("+")) if score else (),
        drop_fraction=drop_fraction,
        max_score=max_score,
        false_drop_rate=false_drop_rate,
        dedup=dedup_by if dedup else None,
    )
    selection = select_rows(run, rule, reference=reference, held_out=held_out, partial=partial)
    for path in out:
        write_selection(selection, path)
    if selection.about["rule"]["signals"] == ["magnitude"] and score is None:
        _console.print(
            "ranked by the magnitude, since no --reference was given. How much better than the base model a pair is "
            "denoised says more: audit the base model too, with the same seed and draws, and name that audit with "
            "--reference",
            style="yellow",
        )
    table = Table("samples", "number")
    for name, number in selection.counts.most_common():
        table.add_row(name, f"{number:,}")
    Console(emoji=False).print(table)
    if selection.cutoff is not None:
        _console.print(f"taken out above a score of {selection.cutoff:.6g}", highlight=False)
    if not selection.counts["kept"]:
        _console.print("nothing is kept: there is nothing to train on", style="red")
        raise typer.Exit(USELESS)


@audit.command()
def apply(
    keep: Annotated[Path, typer.Argument(metavar="KEEP", help="A keep-list in Parquet.")],
    out: Annotated[Path, typer.Option(help="Folder for the shards; the same command goes on with it.")],
) -> None:
    """Write shards of what is kept, members' bytes as they are; the rest to rejected/ with reasons."""
    from memsieve.filtering.audit.apply import apply_keep_list

    with Progress(console=_console) as progress:
        bar = progress.add_task("copying", total=None)
        done = apply_keep_list(keep, out, lambda count, total: progress.update(bar, completed=count, total=total))
    aside = ", ".join(f"{number:,} {reason}" for reason, number in done.rejected.most_common()) or "none"
    _console.print(f"{done.kept:,} samples kept in '{out}'; set aside: {aside}", markup=False, highlight=False)
    if done.lost:
        _console.print(f"{done.lost:,} of these were cut off in their shard and have no bytes to copy", style="yellow")


@audit.command()
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
    _console.print(
        f"{found.joined:,} of {found.images:,} images have near-duplicates: {found.groups:,} groups, the largest of "
        f"{found.largest:,}; set data.groups: {out}",
        markup=False,
        highlight=False,
    )


@audit.command()
def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="The page; RUN/report.html by default.")] = None,
    top: Annotated[int, typer.Option(min=0, max=1000, help="Pairs in the ranking.")] = 100,
    score: Annotated[str | None, typer.Option(help="What is ranked by, as for select.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Audit of the same data by the base model.")] = None,
    truth: Annotated[Path | None, typer.Option(help="truth.parquet of a dataset with planted pairs.")] = None,
    planted_from: Annotated[int, typer.Option(help="Repeats from which a pair counts as planted.")] = 50,
    wandb: Annotated[bool, typer.Option("--wandb", help="Also make a W&B run of it.")] = False,
    wandb_project: Annotated[str, typer.Option(help="Of the W&B run.")] = "memsieve",
    log_samples: Annotated[bool, typer.Option(help="Let captions and pictures go to W&B too.")] = False,
) -> None:
    """One self-contained page and a summary.json. Exit codes as those of status."""
    from memsieve.pages.audit import build_audit_report

    options: dict[str, Any] = {
        "top": top,
        "signals": tuple(name.strip() for name in score.split("+")) if score else (),
        "reference": reference,
        "truth": truth,
        "planted_from": planted_from,
    }
    page, summary = build_audit_report(run, out, **options)
    print(page)
    if wandb:
        from memsieve.trackers.audit import upload_audit

        shared = page
        if not log_samples:
            shared, _ = build_audit_report(run, run / "shared" / "report.html", samples=False, **options)
        upload_audit(run, shared, summary, wandb_project)
    _leave(summary.status)
