"""docs/benchmarks.md, section "Quality", and its plots: written from the JSONs of ``scripts/bench quality`` alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import yaml

from benchmarks.common import CONFIGS, stamped
from benchmarks.quality.aims import aims
from benchmarks.quality.cell import Cell, Plan
from benchmarks.quality.data import HARD_CASES
from benchmarks.quality.figures import Figure, Results
from benchmarks.quality.methods import METHODS, NAMES
from benchmarks.quality.plots import draw

__all__ = ["section", "write_page"]

BEGIN, END = "<!-- quality: written by scripts/bench quality -->", "<!-- end of quality -->"
HEAD = """## Quality

Written by `scripts/bench quality` from the cells in `docs/benchmarks/quality/`: **{done} of {all} cells** of the
small matrix (3 seeds) are there. A cell is a method on a case and a seed; figures pool the seeds that are there, so
rows with fewer seeds have wider intervals.

**Data.** OpenMoji, 32x32; one stream of {stream:,} pairs holds all levels and cases at once and is read {passes}
times, so that exposures are repeats times {passes}: {levels}; {hard} pairs each, at {hard_exposures} exposures, as
paraphrases (one image, many captions), near-duplicates (cropped, mirrored, compressed anew, recoloured) and templates
(one caption, {hard_repeats} images with another ground and badge); {rare} pairs in a rare style and {clean:,}
ordinary pairs, at {passes} exposures. All methods get the same stream in the same order. What takes rows out before
training, the sieve and the oracle go round more often: **all take {updates} steps**, the oracle {rounds:.0f} passes
over its {oracle:,} pairs. A step whose whole batch was dropped updates nothing; the table of cost counts updates.

**Exposures** are those of a run without a filter. Where rows are taken out or skipped, what is left is read more
often{sieve_visits}.

**Training.** `assets/tiny-sd` (2.2 M parameters), batch {batch}, AdamW {lr:g}, cosine, {machine}. At the loader the
settings are those of `configs/train/openmoji_sieve.yaml`, whose `score_budget` of {budget:g} is above the default;
[what each costs](benchmarks-speed.md).

**Measured.** *Dropped*: at least half of the last quarter of a pair's visits trained nothing, or its group ended
condemned. *TPR*: pairs that rank above all but 1 % of the ordinary pairs by the method's own number (memsieve:
dropped ones first, then the largest evidence of the pair's groups, weighted by visits; rules on visits: mean margin;
the cap: visits; dedup: rows taken out). The last two need no look at a model: any repeated pair ranks above those
that stand in the stream once. *Copy*: the nearest training image is of the pair itself, and nearer than 95 % of
held-out images are to theirs; *own* is the first half of that. {images} generations a pair, {generations} a level
with three seeds, DPM-Solver++ {sampling} steps, guidance {guidance:g}. Intervals are 95 %, over pairs, and say
nothing of other trainings: for held-out loss each seed is shown too. The base model was trained on the ordinary pairs
too, not on the held-out ones.
"""


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
        _head(results, wanted, plan),
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


def _head(results: Results, wanted: Sequence[Cell], plan: Plan) -> str:
    cell = next(iter(results.of("none") or results.cells.values()))
    spec, protocol, machine = cell["settings"]["spec"], cell["settings"]["protocol"], cell["machine"]
    passes = spec["passes"]
    levels = ", ".join(f"{pairs} pairs at {repeats * passes}" for repeats, pairs in spec["levels"])
    there = sum((c.method, c.case, c.seed) in results.cells for c in wanted)
    rows, oracle = cell["rows"]["stream"], cell["rows"]["oracle"]
    updates = protocol["steps"] or -(-rows * passes // protocol["batch_size"])
    text = HEAD.format(
        done=there, all=len(wanted), stream=rows, levels=levels, hard=spec["hard_pairs"],
        hard_repeats=spec["hard_repeats"], hard_exposures=spec["hard_repeats"] * passes, passes=passes,
        rare=spec["rare"], clean=spec["clean"], batch=protocol["batch_size"], updates=f"{updates:,}", oracle=oracle,
        rounds=updates * protocol["batch_size"] / oracle, lr=protocol["lr"],
        images=protocol["images"], generations=3 * max(p for _, p in spec["levels"]) * protocol["images"],
        sieve_visits=_read_more_often(results),
        budget=yaml.safe_load((CONFIGS / METHODS["ours_sieve"].config).read_text())["filter"]["score_budget"],
        sampling=protocol["sampling_steps"], guidance=protocol["guidance_scale"],
        machine=f"one CPU thread of a machine with {machine['cores']} cores ({machine['processor']}), which others "
        f"used too, torch {machine['torch']}",
    )  # fmt: skip
    return (
        "\n\n".join(fill(part, 120, break_long_words=False, break_on_hyphens=False) for part in text.split("\n\n"))
        + "\n"
    )


def _read_more_often(results: Results) -> str:
    """How much more, at the loader."""
    seen = results.visits("ours_sieve", "level 50")
    if not seen:
        return ""
    return f": at the loader a pair in the column 50 came round {seen:.0f} times (median), skipped or not"


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
    import numpy as np

    if len(rates) < 2:
        return "", ""
    quantile = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}.get(len(rates), 2.5)  # Student's t, 97.5 %
    half = quantile * float(np.std(rates, ddof=1)) / len(rates) ** 0.5
    middle = float(np.mean(rates))
    return f"{100 * max(middle - half, 0):.2f}", f"{100 * (middle + half):.2f}"


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
