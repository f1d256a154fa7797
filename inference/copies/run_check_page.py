"""The table and the page of a check: each training picture beside what was drawn for its caption before and is now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from memsieve.filtering.files import write_json, write_whole
from memsieve.inference.copies.pair_pictures import write_picture
from memsieve.inference.copies.run_check import RunCheck
from memsieve.inference.copies.verify import picture_uri
from memsieve.inference.templates import render

__all__ = ["headline", "next_steps", "overrule", "write_check"]

MOST: Final = 200
"""Pairs that the page shows; the table holds all."""


def headline(check: RunCheck) -> str:
    """What was found, in a sentence with numbers."""
    number, of, copies = len(check.come_back), len(check.pairs), check.copies
    return (
        f"{number} of {of} pairs come back as their own picture oftener than in {check.run.rate:.1%} of drawings; "
        f"{copies.rate:.1%} of all drawings do ({copies.low:.1%} to {copies.high:.1%})"
    )


def next_steps(check: RunCheck) -> list[str]:
    """What to do about it, a sentence or two each."""
    found = []
    if check.come_back:
        found = [
            "Train once more without the pairs that come back: the lines below go into the config. Where they shall be "
            "learned all the same, stop earlier, or let filter.rule: recall retire each pair once it comes back.",
            "Look whether an earlier model does not copy, by the same command with another --model.",
            "If this model has to be used: memsieve explain says which words of a caption call the picture up, and "
            "memsieve minimize asks without getting it back.",
        ]
    else:
        found.append("No pair comes back oftener than is allowed. Nothing has to be done.")
    if check.run.base is None:
        found.append("The model before fine-tuning was not asked. Name it with --base: some of this it may draw too.")
    if not check.held_out:
        found.append("No held-out caption was asked. Pairs that were never trained on make the answer surer.")
    if any(pair.drawings < 8 for pair in check.pairs):
        found.append("A pair was drawn less than eight times. What comes back seldom is seen with more --drawings.")
    return found


def overrule(check: RunCheck) -> str:
    """The pairs that come back as the config takes them: YAML; empty where none does."""
    keys = dict.fromkeys(pair.key for pair in check.come_back)
    return "".join(["filter:\n  always_drop:\n", *(f"    - {json.dumps(key)}\n" for key in keys)]) if keys else ""


def write_check(check: RunCheck, out: Path) -> Path:
    """Write ``check.json``, ``check.html`` and the pairs' pictures to ``out``; the page is returned. It is
    self-contained, and captions and keys are escaped."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "check.json", check.as_dict())
    for group, (_, before, now) in check.pictures.items():
        if before is not None:
            write_picture(out, group, "before", before)
        write_picture(out, group, "now", now)
    shown = []
    for pair in check.pairs[:MOST]:
        uris = (None if pixels is None else picture_uri(pixels) for pixels in check.pictures[pair.group])
        shown.append((pair, *uris))
    values = {"headline": headline(check), "shown": shown, "next": next_steps(check), "overrule": overrule(check)}
    write_whole(out / "check.html", render("check.html", check=check, **values))
    return out / "check.html"
