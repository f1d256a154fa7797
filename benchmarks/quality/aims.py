"""What was aimed at in ``scripts/bench quality``, beside what was measured."""

from __future__ import annotations

import math
from typing import Final

from benchmarks.quality.figures import Figure, Results
from benchmarks.quality.methods import NAMES
from benchmarks.quality.samples import HARD_CASES

__all__ = ["aims"]

RIVALS: Final = ("paper", "paper_five", "iet_agc", "random_tokens", "random_drop", "cap")
"""Those that must be beaten; deduplication is a case of its own."""
RULES: Final = ("paper", "paper_five", "iet_agc")
"""Rivals that rank pairs by what they look like; how often a pair was read ranks repeated ones without a look."""
BACK: Final = {"copies": "copy rate", "own": "own image nearest"}
SOME = 0.1
"""Share of generations from which on the unfiltered run is said to copy."""
Row = tuple[str, str, str]
"""The aim, what was measured, and whether it was met."""


def aims(results: Results, levels: list[str]) -> str:
    """The table as Markdown; empty where none of memsieve's methods is there."""
    rows: list[Row] = []
    for method in ("ours", "ours_sieve"):
        if results.of(method):
            rows += _of_pairs(results, method, levels)
            rows += [row for kind in BACK for level in levels for row in _comes_back(results, method, level, kind)]
    for method in ("ours", "ours_sieve", "ours_phash"):
        if results.of(method):
            rows += _against_dedup(results, method)
    if not rows:
        return ""
    lines = [f"| {what} | {found} | {met} |" for what, found, met in rows]
    return "\n".join(["### What was aimed at\n", "| aim | measured | met |", "|---|---|---|", *lines, ""])


def _said(met: bool) -> str:
    return "yes" if met else "**no**"


def _of_pairs(results: Results, method: str, levels: list[str]) -> list[Row]:
    """What is found, how early, and what it does to the rest."""
    rows: list[Row] = []
    name = NAMES[method]
    for number, what in ((0, "TPR at 1 %"), (2, "dropped")):
        share = results.detection(method, "level 100")[number] if "level 100" in levels else None
        if share is not None:
            rows.append((f"{name}: {what} at 100 exposures, at least .95", str(share), _said(share.value >= 0.95)))
    rows += _before_copies(results, method, levels)
    if (held := results.held_out(method)) is not None:
        rows.append((f"{name}: held-out loss within 1 % of the oracle's",
                     f"{held.value:.3f} ({held.low:.3f} to {held.high:.3f})", _said(held.value <= 1.01)))  # fmt: skip
    rows += [row for level in levels if int(level.split()[1]) >= 50 for row in _rivals_at(results, method, level)]
    return rows


def _before_copies(results: Results, method: str, levels: list[str]) -> list[Row]:
    """Of the levels that the unfiltered run copies: dropped at the exposures of a lower level that it does not copy, or
    before."""
    plain = {level: results.generated("none", level, "copies") for level in levels}
    innocent = [int(level.split()[1]) for level, figure in plain.items() if figure is not None and figure.value == 0.0]
    rows: list[Row] = []
    for level, figure in plain.items():
        first = results.first_dropped(method, level)
        # A higher level that happens not to be copied proves nothing: its exposures come after these pairs' last.
        lower = [exposures for exposures in innocent if exposures < int(level.split()[1])]
        if figure is not None and figure.value > 0.0 and lower and first is not None:
            visit = f"median visit {first[0]:.0f}" if math.isfinite(first[0]) else "of half of them none is dropped"
            rows.append((
                f"{NAMES[method]}: pairs at {level.split()[1]} dropped before they are copied",
                f"{visit}; no filter copies none of the pairs with {max(lower)} exposures",
                _said(first[0] <= max(lower)),
            ))  # fmt: skip
    return rows


def _comes_back(results: Results, method: str, level: str, kind: str) -> list[Row]:
    """Where the unfiltered run copies: the oracle's rate, and that of rivals without the truth or a look at images."""
    plain, mine, best = (results.generated(m, level, kind) for m in ("none", method, "oracle"))
    if plain is None or mine is None or plain.value < SOME:
        return []
    name, what, at = NAMES[method], BACK[kind], level.split()[1]
    rows: list[Row] = []
    if best is not None:
        overlap = mine.low <= best.high and best.low <= mine.high
        rows.append((f"{name}: {what} at {at}, interval overlaps the oracle's", f"{mine}; oracle {best}",
                     _said(overlap)))  # fmt: skip
    known = _values({m: results.generated(m, level, kind) for m in RIVALS})
    if known:
        told = ", ".join(f"{NAMES[m]} {value:.2f}" for m, value in known.items())
        met = mine.value == 0.0 or mine.value < min(known.values())
        rows.append((f"{name}: {what} at {at} below every rival's, or 0",
                     f"{mine.value:.2f}; no filter {plain.value:.2f}, {told}", _said(met)))  # fmt: skip
    return rows


def _values(figures: dict[str, Figure | None]) -> dict[str, float]:
    return {method: figure.value for method, figure in figures.items() if figure is not None}


def _rivals_at(results: Results, method: str, level: str) -> list[Row]:
    mine = results.detection(method, level)[0]
    known = _values({m: results.detection(m, level)[0] for m in RULES})
    if mine is None or not known:
        return []
    told = ", ".join(f"{NAMES[m]} {value:.2f}" for m, value in known.items())
    return [(f"{NAMES[method]}: TPR at {level.split()[1]} above the rules on visits", f"{mine.value:.2f}; {told}",
             _said(mine.value > max(known.values())))]  # fmt: skip


def _against_dedup(results: Results, method: str) -> list[Row]:
    """Exact deduplication knows exact copies without a look at the model; what is not exact is the filter's."""
    rows: list[Row] = []
    mine, theirs = (results.detection(m, "level 200")[0] for m in (method, "dedup"))
    if mine is not None and theirs is not None and method != "ours_phash":
        rows.append((f"{NAMES[method]}: TPR at 200 within .02 of exact dedup's",
                     f"{mine.value:.2f}; {theirs.value:.2f}", _said(mine.value >= theirs.value - 0.02)))  # fmt: skip
    for case in HARD_CASES:
        mine, theirs = (results.detection(m, case)[2] for m in (method, "dedup"))
        if mine is not None and theirs is not None:
            met = "equal" if mine.value == theirs.value else _said(mine.value > theirs.value)
            rows.append((f"{NAMES[method]}: {case.replace('_', '-')} pairs, more dropped than by exact dedup",
                         f"{mine.value:.2f}; {theirs.value:.2f}", met))  # fmt: skip
    return rows
