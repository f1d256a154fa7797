"""The page's first paragraph: for whom dedup is enough, and for whom it is not, in the numbers of the cells."""

from __future__ import annotations

from textwrap import fill
from typing import Final

from benchmarks.copying.figures import Results

__all__ = ["in_short"]

SAID: Final[dict[str, str]] = {
    "none": "no filter", "dedup": "exact dedup", "dedup_phash": "dedup by perceptual hash",
    "dedup_found": "dedup by SSCD", "ours_sieve": "memsieve at the loader",
    "dedup_sieve": "memsieve after exact dedup", "found_all": "memsieve with found groups",
    "found_once": "memsieve with found groups, once a pass",
}  # fmt: skip
COMPARED: Final[tuple[str, ...]] = tuple(SAID)
KINDS: Final = {
    "exact": "Exact repeats",
    "paraphrase": "One file under many captions",
    "family": "One picture under many files",
    "template": "One caption and one thing on many grounds",
}
ENOUGH: Final = 0.1
"""Excess from which on dedup is not enough."""


def in_short(results: Results) -> str:
    """As Markdown: by kind of repetition, what comes back at its most exposures; which of dedup and memsieve is to be
    taken follows from the numbers."""
    cases = results.cases("mixed")
    lines: list[str] = []
    enough: list[str] = []
    beyond: list[str] = []
    for kind, said in KINDS.items():
        mine = [case for case in cases if case.startswith(f"{kind} ") and results.counts("mixed", case)]
        if not mine:
            continue
        case = max(mine, key=lambda name: int(name.split()[-1]))
        told = {name: found.difference for name in COMPARED if (found := results.excess(name, "mixed", case))}
        numbers = "; ".join(f"{SAID[name]} {round(value, 2) + 0.0:.2f}" for name, value in told.items())
        lines.append(f"- {said}, {case.split()[-1]} exposures: {numbers}.")
        if "dedup" in told:
            (enough if told["dedup"] <= ENOUGH else beyond).append(said[0].lower() + said[1:])
    if not lines:
        return ""
    verdict = []
    if enough:
        verdict.append(f"Where your repeats are {_listed(enough)}, exact dedup is enough, and it is free.")
    if beyond:
        verdict.append(f"{'It' if enough else 'Exact dedup'} is not enough for {_listed(beyond)}.")
    head = (
        "**In short.** How much more often a drawing is nearest to its training picture than a held-out caption's is "
        "to its own (0: no more often; 1: always against never):"
    )
    return "\n".join([fill(head, 120), "", *[fill(line, 120, subsequent_indent="  ") for line in lines], "",
                      fill(" ".join(verdict), 120), ""])  # fmt: skip


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
