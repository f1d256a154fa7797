"""docs/benchmarks-copying.md and its pictures, written from the JSONs of ``scripts/bench copying`` alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.copying.data import SHORT
from benchmarks.copying.drawings import JUDGES
from benchmarks.copying.excess import Excess
from benchmarks.copying.figures import BASE_MOST, PREMISE, Results
from benchmarks.copying.in_short import in_short
from benchmarks.copying.intervals import Figure
from benchmarks.copying.introduction import introduction
from benchmarks.copying.methods import METHODS, NAMES, SMALL
from benchmarks.copying.plan import Cell, Plan
from benchmarks.copying.plots import draw
from benchmarks.copying.watched import DRAWINGS, first_copied, first_said

__all__ = ["page_of", "write_page"]

JUDGE_NAMES = {"pixel_l2": "pixels", "tiled_l2": "tiles", "encoder": "what is shown"}


def write_page(path: Path, plan: Plan, wanted: Sequence[Cell]) -> None:
    """Write the page and its plots, of the cells that were made with the settings of now; nothing where none is
    there."""
    results, stale = Results.read(
        plan.results,
        lambda cell: (
            cell["method"] in METHODS
            and cell["stream"] in plan.streams
            and cell["hash"] == plan.hash(Cell(cell["method"], cell["stream"], cell["seed"]))
        ),
    )
    if not results.cells:
        return
    text = page_of(results, wanted)
    if stale:
        text += f"\n{stale} {'cell' if stale == 1 else 'cells'} made with other settings left out.\n"
    plots = draw(results, path.parent / "benchmarks")
    path.write_text("\n".join([text, *[f"![{said}](benchmarks/{name})\n" for name, said in plots]]), encoding="utf-8")


def page_of(results: Results, wanted: Sequence[Cell]) -> str:
    """The page as Markdown."""
    cases = results.cases("mixed")
    parts = [
        "# Does it copy, and what does it learn?\n",
        in_short(results),
        introduction(results, wanted),
        _premises(results),
        _mixed(results, cases),
        _found(results),
        _small(results),
        _one_case(results, "paper", "The paper's regime"),
        _nothing(results),
        _there(results, wanted),
    ]
    return "\n".join(part for part in parts if part)


def _premises(results: Results) -> str:
    """Which cases can show something."""
    rows = [("mixed", case) for case in results.cases("mixed")] + [(name, "ordinary") for name in SMALL]
    rows += [("paper", case) for case in results.cases("paper")]
    lines = []
    for stream, case in rows:
        base, none = (results.excess(method, stream, case) for method in ("base", "none"))
        if base is not None or none is not None:
            verdict = {True: "yes", False: "**no**", None: "not measured"}[results.counts(stream, case)]
            said = case if stream == "mixed" else f"{stream}: {case}"
            lines.append(f"| {said} | {_excess(base)} | {_excess(none)} | {verdict} |")
    if not lines:
        return ""
    return "\n".join([
        "## What can be shown\n",
        f"The excess of the base and of the run without a filter, by pixels. A case counts where the first is at most "
        f"{BASE_MOST} and the second at least {PREMISE}.\n",
        "| case | base | no filter | counts |", "|---|---|---|---|", *lines, "",
    ])  # fmt: skip


def _mixed(results: Results, cases: list[str]) -> str:
    rows = [name for name in NAMES if results.of(name, "mixed")]
    if not rows:
        return ""
    parts = ["## Everything at once\n"]
    both = [*cases, "ordinary"]
    for judge in JUDGES:
        told = _table(results, rows, both, lambda m, c, j=judge: _excess(results.excess(m, "mixed", c, j)))
        parts += [f"### What comes back: excess, by {JUDGE_NAMES[judge]}\n", told]
    parts += [
        "### Copies by the strict judge, share of drawings\n",
        _table(results, rows, both, lambda m, c: _figure(results.copies(m, "mixed", c))),
        "### Pairs found: share that ranks above all but 1 % of ordinary pairs\n",
        _table(results, rows, cases, lambda m, c: _figure(results.found(m, "mixed", c))),
        "### Pairs dropped\n",
        _table(results, rows, cases, lambda m, c: _figure(results.dropped(m, "mixed", c))),
        "### What it costs, and what was learned\n",
        _costs(results, rows, "mixed"),
    ]
    return "\n".join(part for part in parts if part)


def _table(results: Results, rows: list[str], columns: list[str], cell: Callable[..., str]) -> str:
    """Empty rows are left out; cases that cannot show anything are in brackets."""
    heads = [f"({c})" if results.counts("mixed", c) is False and c != "ordinary" else c for c in columns]
    lines = [f"| | seeds | {' | '.join(heads)} |", "|---" * (len(columns) + 2) + "|"]
    for method in rows:
        told = [cell(method, column) for column in columns]
        if any(told):
            lines.append(f"| {NAMES[method]} | {len(results.of(method, 'mixed'))} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _costs(results: Results, rows: list[str], stream: str) -> str:
    lines = [
        "| | seeds | ordinary pairs dropped, % | rare ones dropped, % | held-out loss / oracle's | each seed | "
        "held-out captions recognised | ordinary pairs came round | updates | CPU s a step |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method in rows:
        seconds, updates = (results.mean(method, stream, name) for name in ("cpu_seconds_per_step", "updates"))
        rounds = results.rounds(method, stream)
        told = (
            NAMES[method],
            str(len(results.of(method, stream))),
            *(_percent(results.dropped(method, stream, kind)) for kind in ("ordinary", "rare")),
            _three(results.held_out(method, stream)),
            ", ".join(f"{value:.3f}" for value in results.held_out_by_seed(method, stream)),
            _figure(results.recognised(method, stream)),
            f"{rounds:.1f}" if rounds is not None else "",
            f"{updates:,.0f}" if updates is not None else "",
            f"{seconds:.2f}" if seconds is not None else "",
        )
        lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def _found(results: Results) -> str:
    """Which groups the methods took that take groups, by the truth."""
    cells = {cell["seed"]: cell["found"] for cell in results.cells.values() if "found" in cell}
    if not cells:
        return ""
    cases = list(next(iter(cells.values()))["together"])
    lines = [
        f"| seed | descriptor | threshold | edits that the check finds | {' | '.join(cases)} | ordinary and rare pairs "
        "joined to another pair |",
        "|---" * (len(cases) + 5) + "|",
    ]
    for seed, one in sorted(cells.items()):
        told = " | ".join(f"{one['together'][case]:.2f}" for case in cases)
        falsely = f"{one['ordinary_joined']} of {one['ordinary']}"
        lines.append(
            f"| {seed} | {one['descriptor']} | {one['threshold']:.3f} | {one['check']['mean_recall']:.0%} | {told} | "
            f"{falsely} |"
        )
    said = (
        "Groups are found as a user finds them: by the descriptor and the threshold that `audit groups --threshold "
        "auto` chooses on the stream itself, for 1 % false joins. By case: the share of a pair's files that are in one "
        "group. Deduplication by SSCD keeps the first of each of these groups.\n"
    )
    return "\n".join(["### Found groups\n", said, *lines, ""])


def _small(results: Results) -> str:
    streams = [name for name in SMALL if results.of("none", name)]
    if not streams:
        return ""
    lines = [
        "| set | | seeds | excess, pixels | excess, tiles | excess, what is shown | copies | excess / no filter's | "
        "copies / no filter's | held-out loss / the base's | / the best early stop's | held-out captions recognised |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for stream in streams:
        passes = results.of("none", stream)[0]["settings"]["stream"]["passes"]
        for method in (name for name in NAMES if results.of(name, stream)):
            told = (
                f"{stream.removeprefix('small ')} pairs x {passes}",
                NAMES[method],
                str(len(results.of(method, stream))),
                *(_excess(results.excess(method, stream, "ordinary", judge)) for judge in JUDGES),
                _figure(results.copies(method, stream, "ordinary")),
                *map(_figure, results.of_unfiltered(method, stream)),
                _three(results.held_out(method, stream, "base")),
                _three(results.held_out(method, stream, "stop")),
                _figure(results.recognised(method, stream)),
            )
            lines.append(f"| {' | '.join(told)} |")
    return "\n".join(
        ["## Small sets\n", "Nothing is repeated; few pictures are read often.\n", *lines, "", _watched(results)]
    )


def _watched(results: Results) -> str:
    """When ``copies`` was said, and when the judge saw the first one."""
    lines = []
    for stream in (*SMALL, SHORT.name):
        for cell in results.of("watched", stream):
            looks = cell["watched"]
            step, said = (found if found is not None else "never" for found in (first_copied(looks), first_said(looks)))
            last = looks[-1]
            told = (
                stream.removeprefix("small "),
                cell["seed"],
                len(looks) - 1,
                said,
                step,
                last["step"],
                last["copies"],
            )
            lines.append(f"| {' | '.join(map(str, told))} |")
    if not lines:
        return ""
    text = (
        f"Every pair is drawn {DRAWINGS} times at each look, in all steps and from noise that the run does not use. "
        "The first copy is the first look at which a pair is copied, by pixels, that the base does not copy.\n"
    )
    head = "| set | seed | looks | `copies` said by step | first copy at step | last step | copies there |"
    return "\n".join(["### Is it said in time?\n", text, head, "|---" * 7 + "|", *lines, ""])


def _one_case(results: Results, stream: str, title: str) -> str:
    rows, cases = [name for name in NAMES if results.of(name, stream)], results.cases(stream)
    if not rows or not cases:
        return ""
    lines = ["| | excess | copies | pairs found | pairs dropped |", "|---|---|---|---|---|"]
    for method in rows:
        figures = (read(method, stream, cases[0]) for read in (results.copies, results.found, results.dropped))
        told = [_excess(results.excess(method, stream, cases[0])), *map(_figure, figures)]
        lines.append(f"| {NAMES[method]} | {' | '.join(told)} |")
    share = "A quarter of the rows are repeats of twelve pairs, and captions are never dropped."
    return "\n".join([f"## {title}\n", f"{share}\n", *lines, "", _costs(results, rows, stream)])


def _nothing(results: Results) -> str:
    rows = [name for name in NAMES if results.of(name, "nothing") and name not in ("none", "base")]
    if not rows:
        return ""
    lines = ["| | seeds | ordinary pairs dropped, % | rare ones dropped, % |", "|---|---|---|---|"]
    for method in rows:
        drops = [_percent(results.dropped(method, "nothing", kind)) for kind in ("ordinary", "rare")]
        lines.append(f"| {NAMES[method]} | {len(results.of(method, 'nothing'))} | {drops[0]} | {drops[1]} |")
    return "\n".join(["## Nothing to be dropped\n", "Each pair once a pass; 1 % is what was asked.\n", *lines, ""])


def _there(results: Results, wanted: Sequence[Cell]) -> str:
    lines = ["| stream | method | seeds |", "|---|---|---|"]
    for stream, method in dict.fromkeys((cell.stream, cell.method) for cell in wanted):
        asked = [cell.seed for cell in wanted if (cell.stream, cell.method) == (stream, method)]
        there = [cell["seed"] for cell in results.of(method, stream)]
        missing = [str(seed) for seed in asked if seed not in there]
        told = ", ".join(map(str, there)) + (f" (missing: {', '.join(missing)})" if missing else "")
        lines.append(f"| {stream} | {NAMES.get(method, method)} | {told} |")
    return "\n".join(["## Which cells are there\n", *lines, ""])


def _excess(found: Excess | None) -> str:
    if found is None:
        return ""
    # Rounded first: a difference of -0.001 is 0.00.
    value, low, high = (round(number, 2) + 0.0 for number in (found.difference, found.low, found.high))
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _figure(figure: Figure | None) -> str:
    return str(figure) if figure is not None else ""


def _three(figure: Figure | None) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})" if figure is not None else ""


def _percent(figure: Figure | None) -> str:
    return f"{100 * figure.value:.2f} ({100 * figure.low:.2f} to {100 * figure.high:.2f})" if figure is not None else ""
