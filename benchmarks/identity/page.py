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
    return line if line.startswith(("|", "#")) else textwrap.fill(line, 120, break_long_words=False)


def _photographs(values: dict[str, Any]) -> list[str]:
    columns = [(name, label, one) for name, rows in values["finders"].items() for label, one in rows.items()]
    edits = list(columns[0][2]["recall"]) if columns else []
    said = (
        f"{values['photographs']} photographs out of Debian's packages ({', '.join(values['from'])}), fetched and not "
        "shipped; each package's `copyright` names authors and licences and is kept beside them. Ten known edits of "
        'each: the share that lies within the threshold of its original. "Falsely": the share of photographs that a '
        "different one lies within the threshold of. `auto` is chosen for 1 % false joins from how near different "
        "pictures lie."
    )
    lines = [
        "## Photographs",
        "",
        said,
        "",
        "| | " + " | ".join(f"{n} {_named(n, label)}" for n, label, _ in columns) + " |",
    ]
    lines.append("|---" * (len(columns) + 1) + "|")
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
    return label if label == "auto" or name.startswith("sscd") else f"{-float(label):g} bits"


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
            f"| {name} | {check['threshold']:.3g} | {one['threshold']:.3g} | {check['mean_recall']:.3f} | "
            f"{one['mean_recall']:.3f} | {gap:.3f} |"
        )
    return lines


def _neighbours(values: dict[str, Any]) -> list[str]:
    recall = "–" if values["recall"] is None else f"{values['recall']:.3f}"
    return [
        f"## {values['rows']:,} embeddings", "",
        f"Synthetic, {values['width']} dimensions, one in five a near-duplicate at a cosine of .80 to .98 to an "
        f"earlier one; joined at {values['threshold']:g}: {values['leaders']:,} leaders, {values['joined']:,} "
        f"joined, in {values['seconds']:,.0f} s on {values['threads']} thread of {values['processor']} and "
        f"{values['peak_gb']:.1f} GB at most. Of {values['sample']:,} rows by chance brute force over all leaders "
        f"joins {values['joined_by_brute_force']:,}; of these {recall} were joined.",
    ]  # fmt: skip


def _tables(values: dict[str, Any]) -> list[str]:
    lines = [
        f"## {values['rows']:,} rows", "",
        "A synthetic audit with four draws a row, a third of the rows repeating an image; memory beyond what the "
        "process held before.", "", "| | seconds | GB | bytes a row |", "|---|---|---|---|",
    ]  # fmt: skip
    for what in ("select", "groups", "report"):
        if what in values:
            one = values[what]
            each = one["bytes"] / values["rows"]
            lines.append(f"| {what} | {one['seconds']:,.0f} | {one['bytes'] / 1e9:.1f} | {each:.0f} |")
    return lines
