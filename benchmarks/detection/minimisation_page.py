"""What scripts/bench minimize measured, as a section of the page on detection."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["reduced_by", "share_kept", "verdict_on_ways", "ways_to_minimise"]

AIM = 0.8
"""Of the copies to be gone, and of the alignment to be kept."""
SHIPPED = "adamw, 0.3"

Kept = Callable[[Sequence[float], Sequence[float]], tuple[float, float, float]]
INTRO = """### Other ways, on other models

Written by `scripts/bench minimize`, {models}; {images} images a prompt, {steps} steps, guidance 3. *Alignment*: the
probability that an image's own caption fits better than 7 captions of held-out images, by the encoder above trained on
these models' other pairs; it is {seen:.2f} for held-out images, chance .12. *Closest* is `--method closest`, the least
change that meets the target; *padding* and *words* are what `--tokens` lets change. "Kept" counts from the images as
they were, which are copies in part, and *of the base's* from the model before fine-tuning on the same captions: what a
model reaches that never saw them repeated. Intervals: 95 %, over prompts.
"""


def ways_to_minimise(folder: Path, kept: Kept) -> list[str]:
    """A table for every minimize-NAME.json in ``folder``; nothing where there is none."""
    files = sorted(folder.glob("minimize-*.json"))
    found = {file.stem.removeprefix("minimize-"): json.loads(file.read_text()) for file in files}
    if not found:
        return []
    some = next(iter(found.values()))
    models = " and ".join(
        f"{len(part['prompts'])} prompts of `{name}` (planted: {', '.join(part['plant'])})"
        for name, part in found.items()
    )
    lines = [
        INTRO.format(
            models=models, images=some["asked"]["images"], steps=some["asked"]["settings"]["schedule_steps"],
            seen=some["encoder"]["held_out_8_way"],
        )
    ]  # fmt: skip
    for name, part in found.items():
        ways = part["ways"]
        # Controls first, then the ways, those alike together; JSON holds them as they were added.
        order = sorted(ways, key=lambda way: (way.startswith(("adamw", "closest")), way.split(", ")[:-1]))
        lines += [*_table(name, {way: ways[way] for way in order}, kept), ""]
    return lines


def verdict_on_ways(folder: Path, kept: Kept) -> list[str]:
    """What the shipped way does on every model, beside what was aimed at."""
    told = []
    for file in sorted(folder.glob("minimize-*.json")):
        ways = json.loads(file.read_text())["ways"]
        before, after = ways["as it was"], ways[SHIPPED]
        if not any(before["copies"]):
            told.append(f"on `{file.stem.removeprefix('minimize-')}` nothing was copied, so that nothing can be gone")
            continue
        gone = 1 - kept(before["copies"], after["copies"])[0]
        left = kept(before["alignment"], after["alignment"])[0]
        met = "both met" if gone >= AIM and left >= AIM else "**not both met**"
        told.append(
            f"on `{file.stem.removeprefix('minimize-')}` {100 * gone:.0f} % of the copies gone and {100 * left:.0f} % "
            f"of the alignment kept, {met}"
        )
    if not told:
        return []
    return [
        f"- Aimed at: at least {100 * AIM:.0f} % of the copies gone, at least {100 * AIM:.0f} % of the alignment kept. "
        f"As shipped (`{SHIPPED}`): {'; '.join(told)}. It was chosen among these rows as "
        "what serves both models best; six prompts each."
    ]


def _table(name: str, ways: dict[str, Any], kept: Kept) -> list[str]:
    before, base = ways["as it was"], ways["before fine-tuning"]
    lines = [
        f"| `{name}` | target met | change of the embedding | copy rate | reduced by | alignment | kept "
        "| of the base's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way, row in ways.items():
        reduced = reduced_by(kept(before["copies"], row["copies"]))
        share = share_kept(kept(before["alignment"], row["alignment"]))
        if row is before:
            reduced = share = ""
        met = f"{100 * float(np.mean(row['met'])):.0f} %" if "met" in row else ""
        change = f"{float(np.mean(row['change'])):.2f}" if "change" in row else ""
        of_base = "" if row is base else share_kept(kept(base["alignment"], row["alignment"]))
        lines.append(
            f"| {way} | {met} | {change} | {np.mean(row['copies']):.2f} | {reduced} | {np.mean(row['alignment']):.2f} "
            f"| {share} | {of_base} |"
        )
    return lines


def share_kept(part: tuple[float, float, float]) -> str:
    """What ``kept`` found, for a table."""
    if math.isnan(part[0]):
        return "nothing was there"
    return f"{100 * part[0]:.0f} % ({100 * part[1]:.0f} to {100 * part[2]:.0f})"


def reduced_by(part: tuple[float, float, float]) -> str:
    """What is not kept of the copies, for a table."""
    if math.isnan(part[0]):
        return "nothing was copied"
    return f"{100 * (1 - part[0]):.0f} % ({100 * (1 - part[2]):.0f} to {100 * (1 - part[1]):.0f})"
