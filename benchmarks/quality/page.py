"""docs/benchmarks.md, section "Quality", and its plots: written from the JSONs of ``scripts/bench quality`` alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import over_seeds, stamped
from benchmarks.quality.aims import aims
from benchmarks.quality.cell import Cell, Plan
from benchmarks.quality.figures import Figure, Results
from benchmarks.quality.introduction import introduction
from benchmarks.quality.methods import METHODS, NAMES
from benchmarks.quality.plots import draw
from benchmarks.quality.samples import HARD_CASES

__all__ = ["section", "write_page"]

BEGIN, END = "<!-- quality: written by scripts/bench quality -->", "<!-- end of quality -->"


def write_page(path: Path, plan: Plan, wanted: Sequence[Cell]) -> None:
    """Put the section into the page, in the place of an older one, and draw the plots beside the JSONs."""
    results, stale = Results.read(
        plan.results,
        lambda cell: (
            cell["method"] in METHODS and cell["hash"] == plan.hash(Cell(cell["method"], cell["case"], cell["seed"]))
        ),
    )
    if not results.cells:
        return
    text = stamped(section(results, wanted, plan))
    if stale:
        made = "cell made" if stale == 1 else "cells made"
        verb = "is" if stale == 1 else "are"
        text += f"\n{stale} {made} with other settings {verb} left out.\n"
    plots = draw(results, NAMES, path.parent / "benchmarks")
    text = "\n".join([BEGIN, text, *[f"![{alt}](benchmarks/{name})\n" for name, alt in plots], END])
    page = path.read_text(encoding="utf-8") if path.is_file() else "# Benchmarks\n\n" + BEGIN + END + "\n"
    if BEGIN not in page:
        page = page.rstrip("\n") + f"\n\n{BEGIN}{END}\n"
    found = re.search(re.escape(BEGIN) + ".*?" + re.escape(END), page, re.DOTALL)
    assert found is not None
    path.write_text(page[: found.start()] + text + page[found.end() :], encoding="utf-8")


def section(results: Results, wanted: Sequence[Cell], plan: Plan) -> str:
    """The section as Markdown."""
    rows = [name for name in NAMES if results.of(name)]
    levels = plan.spec.level_names
    parts = [
        introduction(results, wanted),
        "### What is found, by exposures: TPR at 1 % false drops\n",
        _table(rows, levels, results, lambda m, g: _text(results.detection(m, g)[0])),
        "### AUC\n",
        _table(rows, levels, results, lambda m, g: _text(results.detection(m, g)[1])),
        "### What is dropped\n",
        _table(rows, levels, results, lambda m, g: _text(results.detection(m, g)[2])),
        "### First visit that was dropped, median (pairs dropped at all)\n",
        "Of the pair's visits in the run, whose median stands behind: the sieve reads the stream more than once.\n",
        _table(rows, levels, results, lambda m, g: _first(results, m, g)),
        "### What comes back: copy rate\n",
        _table(rows, [*levels, "clean"], results, lambda m, g: _text(results.generated(m, g, "copies"))),
        "### Nearest training image is the pair's own\n",
        _table(rows, [*levels, "clean"], results, lambda m, g: _text(results.generated(m, g, "own"))),
        "### Hard cases\n",
        "Share of pairs dropped / copy rate / own image nearest.\n",
        _table(rows, list(HARD_CASES), results, lambda m, g: " / ".join(
            _plain(f) for f in (results.detection(m, g)[2], results.generated(m, g, "copies"),
                                results.generated(m, g, "own")))),
        "### Cost and harm\n",
        _harm(results, rows),
        _nothing(results),
        aims(results, levels),
        "### Which cells are there\n",
        _done(results, wanted),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _table(rows: list[str], columns: list[str], results: Results, cell: Any) -> str:
    heads = [c.removeprefix("level ") if c != "clean" else "ordinary" for c in columns]
    lines = [f"| | seeds | {' | '.join(heads).replace('_', '-')} |", "|---" * (len(columns) + 2) + "|"]
    for method in rows:
        told = [cell(method, column) for column in columns]
        if any(told) and set(told) != {" / ".join(["–"] * 3)}:
            lines.append(f"| {NAMES[method]} | {len(results.of(method))} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def _text(figure: Figure | None) -> str:
    return str(figure) if figure is not None else ""


def _plain(figure: Figure | None) -> str:
    return f"{figure.value:.2f}" if figure is not None else "–"


def _first(results: Results, method: str, group: str) -> str:
    told = results.first_dropped(method, group)
    if told is None or method == "observe":
        return ""
    median, some, pairs = told
    of = results.visits(method, group)
    return f"{'–' if median == float('inf') else f'{median:.0f}'} of {of:.0f} ({some}/{pairs})"


def _harm(results: Results, rows: list[str]) -> str:
    lines = [
        "| | seeds | ordinary pairs dropped, % | rare ones dropped, % | held-out loss / oracle's | each seed | "
        "updates | CPU s per update |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in rows:
        held, seconds = results.held_out(method), results.mean(method, "cpu_seconds_per_step")
        clean, rare = (_percent(results.false_drops(method, kind=kind)) for kind in ("clean", "rare"))
        if method in ("none", "base", "observe"):
            clean = rare = ""
        loss = f"{held.value:.3f} ({held.low:.3f} to {held.high:.3f})" if held is not None else ""
        each = ", ".join(f"{value:.3f}" for value in results.held_out_by_seed(method))
        updates, spent = results.mean(method, "updates"), f"{seconds:.2f}" if seconds is not None else ""
        lines.append(f"| {NAMES[method]} | {len(results.of(method))} | {clean} | {rare} | {loss} | {each} | "
                     f"{f'{updates:,.0f}' if updates else ''} | {spent} |")  # fmt: skip
    share = results.mean("random_drop", "tuned")
    random = "" if share is None else (
        f" Random drop drops {100 * share:.0f} % of all visits, as many as memsieve in the batch; a pair with few "
        "visits soon has half of its last ones among them, and counts as dropped.")  # fmt: skip
    return "\n".join([
        *lines, "", f"Seconds are rough.{random}\n",
        *_papers(results),
    ])  # fmt: skip


def _papers(results: Results) -> list[str]:
    """What is to be known of the paper's thresholds."""
    tuned = results.of("tune_paper")
    if not tuned:
        return []
    found = tuned[0]["threshold"]
    best, five = ([100 * share for share in found[f"{name}_shares"]] for name in ("best", "five"))
    return [
        f"*The paper's τ* was chosen on an unfiltered run of another planting, by the largest difference between "
        f"planted and ordinary visits that it drops (Youden's index): {found['best']:.2f}, which drops {best[0]:.0f} % "
        f"of the one and {best[1]:.0f} % of the other. The magnitude of one visit says little on this model, and a run "
        f"by this τ trains little. τ = {found['five']:.2f} drops {five[1]:.0f} % of the ordinary visits there, and "
        f"{five[0]:.0f} % of the planted ones. The paper's config drops no captions.\n"
    ]


def _percent(figure: Figure | None) -> str:
    return f"{100 * figure.value:.2f} ({100 * figure.low:.2f} to {100 * figure.high:.2f})" if figure is not None else ""


def _nothing(results: Results) -> str:
    lines = []
    for method in NAMES:
        told = results.all_false_drops(method)
        if told:
            hits, count = sum(t[1] for t in told), sum(t[2] for t in told)
            each = ", ".join(f"{100 * dropped / pairs:.2f}" for _, dropped, pairs in told)
            low, high = _over_seeds([dropped / pairs for _, dropped, pairs in told])
            lines.append(f"| {NAMES[method]} | {len(told)} | {100 * hits / count:.2f} | {low} to {high} | {each} |")
    if not lines:
        return (
            "### Nothing memorised\n\n"
            "Is measured [elsewhere](benchmarks-false-drops.md), in real runs with nothing planted.\n"
        )
    passes = (
        results.of("ours", "nothing") or results.of("ours_magnitude", "nothing") or results.of("ours_sieve", "nothing")
    )
    return "\n".join([
        "### Nothing memorised\n",
        f"Each pair once a pass, {passes[0]['settings']['protocol']['passes_of_nothing']} passes: whatever is dropped "
        "is a false drop, %; 1 % is what was asked. The interval is over seeds (t), empty for one.\n",
        "| | seeds | dropped | 95 % | each seed |", "|---|---|---|---|---|", *lines, "",
    ])  # fmt: skip


def _over_seeds(rates: list[float]) -> tuple[str, str]:
    if len(rates) < 2:
        return "", ""
    _, low, high = over_seeds(rates)
    return f"{100 * low:.2f}", f"{100 * high:.2f}"


def _done(results: Results, wanted: Sequence[Cell]) -> str:
    lines = ["| method | seeds |", "|---|---|"]
    for method in METHODS:
        asked = [c.seed for c in wanted if c.method == method]
        there = [cell["seed"] for cell in results.of(method)]
        missing = [seed for seed in asked if seed not in there]
        told = ", ".join(map(str, there)) + (f" (missing: {', '.join(map(str, missing))})" if missing else "")
        if method in NAMES and told:
            lines.append(f"| {NAMES[method]} | {told} |")
    return "\n".join(lines) + "\n"
