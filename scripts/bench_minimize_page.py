"""What scripts/bench_minimize.py measured, as a section of the page on detection."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ways_to_minimise"]

Kept = Callable[[Sequence[float], Sequence[float]], tuple[float, float, float]]
INTRO = """### Other ways, on other models

Written by `scripts/bench_minimize.py`, {models}; {images} images a prompt, {steps} steps, guidance 3. *Alignment*: the
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
    models = " and ".join(f"{len(part['prompts'])} prompts of `{name}`" for name, part in found.items())
    lines = [
        INTRO.format(
            models=models, images=some["asked"]["images"], steps=some["asked"]["settings"]["schedule_steps"],
            seen=some["encoder"]["held_out_8_way"],
        )
    ]  # fmt: skip
    for name, part in found.items():
        lines += [*_table(name, part["ways"], kept), ""]
    return lines


def _table(name: str, ways: dict[str, Any], kept: Kept) -> list[str]:
    before, base = ways["as it was"], ways["before fine-tuning"]
    lines = [
        f"| `{name}` | target met | change of the embedding | copy rate | reduced by | alignment | kept "
        "| of the base's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way, row in ways.items():
        reduced = _less(kept(before["copies"], row["copies"]))
        share = _share(kept(before["alignment"], row["alignment"]))
        if row is before:
            reduced = share = ""
        met = f"{100 * float(np.mean(row['met'])):.0f} %" if "met" in row else ""
        change = f"{float(np.mean(row['change'])):.2f}" if "change" in row else ""
        of_base = "" if row is base else _share(kept(base["alignment"], row["alignment"]))
        lines.append(
            f"| {way} | {met} | {change} | {np.mean(row['copies']):.2f} | {reduced} | {np.mean(row['alignment']):.2f} "
            f"| {share} | {of_base} |"
        )
    return lines


def _share(part: tuple[float, float, float]) -> str:
    return f"{100 * part[0]:.0f} % ({100 * part[1]:.0f} to {100 * part[2]:.0f})"


def _less(part: tuple[float, float, float]) -> str:
    return f"{100 * (1 - part[0]):.0f} % ({100 * (1 - part[2]):.0f} to {100 * (1 - part[1]):.0f})"
