"""The page of scripts/bench mitigate, written from its JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.common import stamped
from benchmarks.detection.minimisation_page import reduced_by, share_kept
from benchmarks.detection.page import kept
from benchmarks.mitigation.ways import NONE
from memsieve.filtering.files import write_whole

__all__ = ["write_page"]

AIM: Final = 0.9
"""Of the copies to be gone, and of the alignment to be kept, on two models."""
HEAD = """# Keeping a finished model from redrawing its training images

Written by `scripts/bench mitigate`. Each model was fine-tuned without a filter, on data in which pairs were planted
many times; their captions are drawn, {images} images each, from the same noise in every way: {steps} steps, guidance
{scale:g}. *Copies* are nearer to their own training image than 95 % of held-out images are to any; *own* counts images
whose nearest training image is their own pair's. *Alignment* is the probability that an image's own caption fits better
than 7 captions of held-out images, by an encoder trained on the other pairs (chance .12). *Attacked*: copies and own
from an embedding that was searched for with the model itself ({updates} updates), handed to the base too. Intervals:
95 %, over prompts.

- *minimise*: the embedding at the first step, until magnitude or drift are those of the lowest third of held-out
  captions; *anchored*: until ‖ε_c − ε_∅^base‖ is what the base has for that prompt.
- *base first, k of 20*: the base's guided prediction for that share of the steps, then the model's.
- *mix, 1/k*: at every step so much of the model's prediction, the rest the base's. *By drift*: so much of it that it
  lies no further from the base's than the median held-out caption's does at that step. *By region*: the same at each
  place of the latents.
- *delay*: guidance off until the magnitude has fallen. *Random tokens* stand at random places of the caption.
"""


def write_page(path: Path, folder: Path) -> None:
    """A table for every mitigate-NAME.json in ``folder``."""
    files = sorted(folder.glob("mitigate-*.json"))
    found = {file.stem.removeprefix("mitigate-"): json.loads(file.read_text(encoding="utf-8")) for file in files}
    some = next(iter(found.values()))["asked"]
    head = HEAD.format(
        images=some["images"], steps=some["settings"]["schedule_steps"], scale=some["settings"]["guidance_scale"],
        updates=some["attack"]["updates"],
    )  # fmt: skip
    tables = [line for name, part in found.items() for line in _table(name, part)]
    write_whole(path, stamped("\n".join([head, *_verdict(found), *tables])))


def _verdict(found: dict[str, dict[str, Any]]) -> list[str]:
    """Which ways meet the aim on every model that copies."""
    copying = {name: part["ways"] for name, part in found.items() if any(part["ways"][NONE]["copies"])}
    if not copying:
        return ["No generation of these models is a copy: nothing can be stopped.", ""]
    common = [way for way in next(iter(copying.values())) if all(way in ways for ways in copying.values())]
    good = [way for way in common if way != NONE and all(_meets(ways, way) for ways in copying.values())]
    named = ", ".join(f"*{way}*" for way in good) or "none"
    models = "1 model" if len(copying) == 1 else f"{len(copying)} models"
    return [
        f"Aimed at: {100 * AIM:.0f} % of the copies gone with {100 * AIM:.0f} % of the alignment kept. On all of "
        f"{models} that copy: {named}.",
        "",
    ]


def _meets(ways: dict[str, Any], way: str) -> bool:
    before, after = ways[NONE], ways[way]
    return (
        1 - kept(before["copies"], after["copies"])[0] >= AIM
        and kept(before["alignment"], after["alignment"])[0] >= AIM
    )


def _table(name: str, part: dict[str, Any]) -> list[str]:
    before = part["ways"][NONE]
    lines = [
        f"## `{name}`: {len(part['asked']['prompts'])} prompts (planted: {', '.join(part['plant'])})",
        "",
        "| way | copies | gone | own | alignment | kept | attacked: copies | own |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way, row in part["ways"].items():
        gone = reduced_by(kept(before["copies"], row["copies"]))
        left = share_kept(kept(before["alignment"], row["alignment"]))
        if row is before:
            gone = left = ""
        searched = ["", ""]
        if row["attacked"] is not None:
            searched = [f"{np.mean(row['attacked'][what]):.2f}" for what in ("copies", "own")]
        lines.append(
            f"| {way} | {np.mean(row['copies']):.2f} | {gone} | {np.mean(row['own']):.2f} "
            f"| {np.mean(row['alignment']):.2f} | {left} | {searched[0]} | {searched[1]} |"
        )
    return [*lines, ""]
