"""``memsieve audit groups``: images that look alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from memsieve.cli.audit.common import RunFolder
from memsieve.cli.common import error_console, out_console

if TYPE_CHECKING:
    from memsieve.filtering.audit.group_check import CheckedDescriptor
    from memsieve.filtering.audit.groups import Alike, Grouping

__all__ = ["groups"]


def groups(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="Table to write, .parquet: what data.groups takes.")],
    by: Annotated[
        str | None,
        typer.Option(
            help="phash, what --describe wrote, as sscd, or caption; left out, what finds most edits of the data."
        ),
    ] = None,
    threshold: Annotated[
        str, typer.Option(help="Least cosine to the group's leader, of hashes most bits that may differ; or auto.")
    ] = "auto",
    check: Annotated[int, typer.Option(help="auto: pictures of the data whose edits are looked for.")] = 300,
    false_joins: Annotated[
        float, typer.Option(help="auto: share of pictures that may be joined to a different one.")
    ] = 0.01,
    bits: Annotated[int | None, typer.Option(help="The threshold of phash: of 64 bits; 4 by default.")] = None,
    mirrored: Annotated[
        bool | None, typer.Option(help="phash: take mirrored images for the same, as it does by default.")
    ] = None,
    onto: Annotated[
        Path | None,
        typer.Option(help="A table to go on with: its groups stay, and images that it does not know join them."),
    ] = None,
    decisions: Annotated[
        Path | None, typer.Option(help="What was split and joined on the page of 'memsieve audit review'.")
    ] = None,
    partial: Annotated[bool, typer.Option(help="Go on although shards are missing or stale.")] = False,
) -> None:
    """Join images that look alike: near-duplicates are one pair of the filter then. Needs no scores (--data-only).

    An audit that was scored with --describe says on its own pictures what its descriptors find, and what they would
    join falsely; without, images are compared by their perceptual hash. Exit code 4 where no descriptor tells pictures
    of this kind apart: nothing is written then.
    """
    from memsieve.filtering.audit.group_files import GroupsFile
    from memsieve.filtering.audit.groups import Alike, group_audit

    hashes = Alike("phash", 4 if bits is None else bits, mirrored is not False)
    file = None if onto is None else GroupsFile.read(onto, "--onto")
    if file is not None:
        chosen = file.made.alike
        _refuse_others(chosen, by, threshold, hashes if bits is not None or mirrored is not None else None)
    elif by == "caption":
        chosen = Alike("caption")
    elif by == "phash" or (by is None and not _described(run)):
        chosen = hashes
    elif threshold != "auto":
        if by is None:
            raise ValueError(f"--threshold {threshold} needs --by: it is a number of one descriptor")
        chosen = Alike(by, _number(threshold))
    else:
        chosen = _measured(run, by, check, false_joins, partial)
    found = group_audit(run, out, chosen, onto=file, decisions=decisions, partial=partial)
    error_console.print(_said(found, out, file is not None), markup=False, highlight=False, soft_wrap=True)


def _refuse_others(table: Alike, by: str | None, threshold: str, hashes: Alike | None) -> None:
    """What images are compared by is the table's affair."""
    if by not in (None, table.by):
        raise ValueError(f"--by {by}: the groups of --onto are by {table.by}; leave --by out, or group all anew")
    if threshold != "auto" and _number(threshold) != table.threshold:
        raise ValueError(
            f"--threshold {threshold}: that of --onto is {table.threshold:g}; leave --threshold out, or group all anew"
        )
    if hashes is not None and hashes != table:
        raise ValueError(
            f"--bits and --mirrored: the groups of --onto are by {table.by} at {table.threshold:g}"
            f"{'' if table.mirrored else ', not mirrored'}; leave the options out, or group all anew"
        )


def _said(found: Grouping, out: Path, more: bool) -> str:
    groups = f"{found.groups:,} groups, the largest of {found.largest:,}"
    if more:
        return (
            f"{found.joining:,} of {found.images:,} new images join others; {found.joined:,} images are in {groups}; "
            f"set data.groups: {out}"
        )
    return f"{found.joined:,} of {found.images:,} images have near-duplicates: {groups}; set data.groups: {out}"


def _described(run: Path) -> bool:
    from memsieve.filtering.audit.folder import AuditFolder

    return bool(AuditFolder(run).settings()["deciding"].get("described"))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--threshold = '{text}': must be a number, or auto") from None


def _measured(run: Path, by: str | None, pictures: int, false_joins: float, partial: bool) -> Alike:
    """The descriptor and the threshold that the check chooses, which is shown."""
    from memsieve.cli.common import USELESS
    from memsieve.filtering.audit.group_check import check_descriptors
    from memsieve.filtering.audit.groups import Alike
    from memsieve.filtering.audit.query import AuditQuery

    if not 0.0 < false_joins < 0.5:
        raise ValueError(f"--false-joins = {false_joins:g}: must lie between 0 and 0.5")
    with AuditQuery() as query:
        rows = query.add("audit", run, partial=partial)
        checked = check_descriptors(query, rows, pictures, false_joins)
    named = [one for one in checked if by in (None, one.by)]
    if not named:
        raise ValueError(f"--by {by}: the audit has {', '.join(one.by for one in checked)}")
    _print_check(checked, false_joins)
    best = named[0]
    if not best.useful:
        error_console.print(
            f"no descriptor tells pictures of this kind apart: at {false_joins:.1%} false joins the best, {best.by}, "
            f"finds {best.mean_recall:.0%} of the edits. Describe larger originals, take another descriptor, or join "
            "by --by phash, which finds light edits alone",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(USELESS)
    return Alike(best.by, best.threshold)


def _print_check(checked: list[CheckedDescriptor], false_joins: float) -> None:
    table = Table("edit", *[one.by for one in checked], title=f"edits found again at {false_joins:.1%} false joins")
    for edit in checked[0].recall:
        table.add_row(edit, *[f"{one.recall[edit]:.0%}" for one in checked])
    table.add_section()
    table.add_row("mean", *[f"{one.mean_recall:.0%}" for one in checked])
    table.add_row("threshold", *[f"{one.threshold:.3g}" for one in checked])
    table.add_row("nearest other picture lies beyond it", *[f"{one.joined:.1%}" for one in checked])
    table.add_row("pictures", *[f"{one.pictures}" for one in checked])
    out_console.print(table)
