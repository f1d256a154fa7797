"""The table and the page of a run's check: each training picture beside what the model draws for its caption."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from memsieve.filtering.files import write_json, write_whole
from memsieve.inference.copies.run_check import RunCheck
from memsieve.inference.copies.verify import picture_uri
from memsieve.inference.templates import render

__all__ = ["headline", "write_check"]

MOST: Final = 200
"""Pairs that the page shows; the table holds all."""


def headline(check: RunCheck) -> str:
    """What was found, in a sentence with numbers."""
    number, of, copies = len(check.come_back), len(check.pairs), check.copies
    return (
        f"{number} of {of} pairs come back as their own picture oftener than in {check.run.rate:.1%} of drawings; "
        f"{copies.rate:.1%} of all drawings do ({copies.low:.1%} to {copies.high:.1%})"
    )


def write_check(check: RunCheck, out: Path) -> Path:
    """Write ``check.json`` and ``check.html`` to ``out``; the page is returned. It is self-contained, and captions and
    keys are escaped."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "check.json", check.as_dict())
    shown = [(pair, *(picture_uri(pixels) for pixels in check.pictures[pair.group])) for pair in check.pairs[:MOST]]
    page = render("check.html", check=check, headline=headline(check), shown=shown)
    write_whole(out / "check.html", page)
    return out / "check.html"
