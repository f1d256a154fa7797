"""The page of scripts/bench checks, written from its JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from benchmarks.common import stamped
from memsieve.filtering.files import write_whole

__all__ = ["write_page"]

PAIRS, ORDINARY = 24, 300
"""What the models are to have together, and each."""
AUC, TPR_FIRST, TPR_PATH = 0.95, 0.6, 0.8
WITH_BASE: Final = ("drift", "anchored_magnitude", "against_base")
NAMES: Final = {"held_out": "held-out captions", "train": "other training captions"}
HEAD = """# Detection with and without the base, measured

Written by `scripts/bench checks`. Each model was fine-tuned without a filter on data with planted pairs. A pair counts
where at least one of {drawn} drawings of its caption copies its picture: {counted}. DDIM, {steps} steps, guidance
{scale:g}, float32, one thread; *n* is images a prompt. Intervals (95 %) resample groups of one base emoji. Seconds are
of a setting alone, with the passes that it needs; a plain generation is drawn and decoded.
"""


def write_page(path: Path, folder: Path) -> None:
    """A table for every checks-NAME.json in ``folder``."""
    files = sorted(folder.glob("checks-*.json"))
    found = {file.stem.removeprefix("checks-"): json.loads(file.read_text(encoding="utf-8")) for file in files}
    asked = next(iter(found.values()))["asked"]["settings"]
    counted = ", ".join(f"{_copying(part)} of {len(part['copies'])} of `{name}`" for name, part in found.items())
    head = HEAD.format(
        drawn=4, counted=counted, steps=asked["schedule_steps"], scale=asked["guidance_scale"]
    )  # fmt: skip
    tables = [line for name, part in found.items() for line in _table(name, part)]
    write_whole(path, stamped("\n".join([head, *_verdict(found), *tables])))


def _copying(part: dict[str, Any]) -> int:
    return sum(rate > 0 for rate in part["copies"].values())


def _verdict(found: dict[str, dict[str, Any]]) -> list[str]:
    """What was aimed at beside what was measured, by each detector that compares with the base."""
    pairs = sum(_copying(part) for part in found.values())
    measured = [part for part in found.values() if part["cells"]]
    fewest = min((rows[0]["ordinary"] for part in measured for rows in part["cells"].values()), default=0)
    enough = "enough" if pairs >= PAIRS and fewest >= ORDINARY else "**not enough**"
    lines = [
        f"- Aimed at: {PAIRS} pairs that copy together, {ORDINARY} ordinary captions of each kind. Measured: {pairs} "
        f"and {fewest}, {enough}."
    ]
    for detector in WITH_BASE:
        cells = [rows for part in measured for cell, rows in part["cells"].items() if cell.startswith(f"{detector}, ")]
        if not cells:
            continue
        first = [row for rows in cells for row in rows if row["steps"] == 1]
        path = [row for rows in cells for row in rows if row["steps"] > 1]
        told = []
        for named, rows, least in (("first step", first, TPR_FIRST), ("path", path, TPR_PATH)):
            auc, tpr = (min(row[what]["value"] for row in rows) for what in ("auc", "tpr"))
            met = "met" if auc >= AUC and tpr >= least else "**not met**"
            told.append(f"{named}: AUC {auc:.3f} (aim {AUC}), TPR {tpr:.2f} (aim {least}), {met}")
        lines.append(f"- `{detector}`, the lowest of all models, kinds and n: {'; '.join(told)}.")
    return [*lines, ""]


def _table(name: str, part: dict[str, Any]) -> list[str]:
    lines = [f"## `{name}` (planted: {', '.join(part['plant'])})", ""]
    if not part["cells"]:
        return [
            *lines,
            "No drawing of a planted caption is a copy: detection of pairs that copy cannot be measured.",
            "",
        ]
    lines += [
        f"A plain generation takes {part['seconds_per_generation']:.3f} s.",
        "",
        "| detector | ordinary | steps | n | AUC | TPR at 1 % FPR | seconds a prompt |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell, rows in part["cells"].items():
        detector, split = cell.split(", ")
        for row in rows:
            auc, tpr = row["auc"], row["tpr"]
            lines.append(
                f"| `{detector}` | {row['ordinary']} {NAMES[split]} | {row['steps']} | {row['images_per_prompt']} "
                f"| {auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f}) "
                f"| {tpr['value']:.2f} ({tpr['low']:.2f} to {tpr['high']:.2f}) | {row['seconds_per_prompt']:.3f} |"
            )
    return [*lines, ""]
