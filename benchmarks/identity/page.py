"""The page of scripts/bench identity, written from its JSON."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

__all__ = ["write_page"]

HEAD = (
    "# One picture under many files, measured",
    "",
    "Written by `scripts/bench identity` from [the numbers](benchmarks/identity.json). How it is used: [the "
    "guide](near-duplicates.md).",
)


def write_page(path: Path, found: dict[str, Any]) -> None:
    """Everything in ``found`` as one page."""
    lines = [*HEAD]
    if "photographs" in found:
        lines += ["", *_photographs(found["photographs"])]
    if "neighbours" in found:
        lines += ["", *_neighbours(found["neighbours"])]
    if "tables" in found:
        lines += ["", *_tables(found["tables"])]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(_wrapped(line) for line in lines).rstrip() + "\n", encoding="utf-8")


def _wrapped(line: str) -> str:
    """A paragraph within 120 columns; a table's row as it is."""
    return (
        line
        if line.startswith(("|", "#"))
        else textwrap.fill(line, 120, break_long_words=False, break_on_hyphens=False)
    )


def _photographs(values: dict[str, Any]) -> list[str]:
    columns = [(name, label, one) for name, rows in values["finders"].items() for label, one in rows.items()]
    edits = list(columns[0][2]["recall"]) if columns else []
    from_where = ", ".join(f"{count} of {name}" for name, count in values["from"].items())
    said = (
        f"{values['photographs']} photographs out of Debian's packages ({from_where}), fetched and not shipped, those "
        "of Tux Paint cut out and laid on white; each package's `copyright` names authors and licences and is kept "
        "beside them. Ten known edits of each: the share that lies within the threshold of its original (a cosine, or "
        'the bits that may differ). "Falsely": the share of photographs that a different one lies within the threshold '
        "of. `auto` is chosen for 1 % false joins from how near different pictures lie; `clean` is the least threshold "
        "at which no two of them are joined."
    )
    lines = [
        "## Photographs",
        "",
        said,
        "",
        "| | " + " | ".join(f"{n} {_named(n, label)}" for n, label, _ in columns) + " |",
    ]
    lines.append("|---" * (len(columns) + 1) + "|")
    least = [
        f"{one['threshold']:.3f}" if name.startswith("sscd") else f"{-one['threshold']:g}" for name, _, one in columns
    ]
    lines.append("| threshold | " + " | ".join(least) + " |")
    for edit in edits:
        lines.append(f"| {edit} | " + " | ".join(f"{one['recall'][edit]:.2f}" for *_, one in columns) + " |")
    lines.append("| **mean** | " + " | ".join(f"**{one['mean_recall']:.2f}**" for *_, one in columns) + " |")
    lines.append("| falsely | " + " | ".join(f"{one['joined_falsely']:.1%}" for *_, one in columns) + " |")
    checks = [(name, one) for name, label, one in columns if label == "auto" and "check" in one]
    if checks:
        lines += ["", *_check(checks)]
    for name, why in values["missing"].items():
        lines += ["", f"`{name}` was not there: {why}"]
    return lines


def _named(name: str, label: str) -> str:
    return label if label in ("auto", "clean") or name.startswith("sscd") else f"{-float(label):g} bits"


def _check(checks: list[tuple[str, dict[str, Any]]]) -> list[str]:
    lines = [
        "What the check (`audit groups --threshold auto`) says of itself beside the truth, each at its own threshold "
        "and with edits drawn by another seed:", "",
        "| | threshold, check | truth | mean recall, check | truth | largest gap of an edit |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, one in checks:
        check = one["check"]
        gap = max(abs(check["recall"][edit] - one["recall"][edit]) for edit in one["recall"])
        lines.append(
            f"| {name} | {abs(check['threshold']):.3g} | {abs(one['threshold']):.3g} | {check['mean_recall']:.3f} | "
            f"{one['mean_recall']:.3f} | {gap:.3f} |"
        )
    return lines


def _neighbours(values: dict[str, Any]) -> list[str]:
    took = "" if values["seconds"] is None else f"in {values['seconds']:,.0f} s "
    recall = "–" if values["recall"] is None else f"{values['recall']:.3f}"
    return [
        f"## {values['rows']:,} embeddings", "",
        f"Synthetic, {values['width']} dimensions, one in five a near-duplicate at a cosine of .80 to .98 to an "
        f"earlier one; joined at {values['threshold']:g}: {values['leaders']:,} leaders, {values['joined']:,} "
        f"joined, {took}on {values['threads']} thread of {values['processor']} and {values['peak_gb']:.1f} GB at "
        f"most. Of {values['sample']:,} rows by chance brute force over all leaders "
        f"joins {values['joined_by_brute_force']:,}; of these {recall} were joined.",
    ]  # fmt: skip


def _tables(values: dict[str, Any]) -> list[str]:
    lines = [
        f"## {values['rows']:,} rows", "",
        "A synthetic audit with four draws a row, a third of the rows repeating an image; memory beyond what the "
        "process held before. Times are left out where other work ran beside.", "",
        "| | seconds | GB | bytes a row |", "|---|---|---|---|",
    ]  # fmt: skip
    for what in ("select", "groups", "report"):
        if what in values:
            one = values[what]
            each = one["bytes"] / values["rows"]
            took = "–" if one["seconds"] is None else f"{one['seconds']:,.0f}"
            lines.append(f"| {what} | {took} | {one['bytes'] / 1e9:.1f} | {each:.0f} |")
    return lines
