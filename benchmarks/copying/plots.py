"""The plot of ``scripts/bench copying``: what comes back over exposures, by kind, and against what was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.copying.figures import Results
from benchmarks.copying.methods import NAMES

__all__ = ["draw"]

DRAWN: Final = {
    "base": ("#bbbbbb", "o"),
    "none": ("#000000", "o"),
    "oracle": ("#7f7f7f", "s"),
    "dedup": ("#2ca02c", "P"),
    "dedup_phash": ("#98df8a", "P"),
    "dedup_found": ("#17becf", "P"),
    "stop": ("#8c564b", "v"),
    "cap": ("#e69f00", "D"),
    "paper": ("#9467bd", "^"),
    "ours": ("#1f77b4", "o"),
    "ours_sieve": ("#d62728", "o"),
    "dedup_sieve": ("#ff9896", "X"),
    "found_all": ("#bcbd22", "X"),
    "found_once": ("#e377c2", "X"),
}
"""Colour and marker of the methods that are drawn; the others have their tables."""


def draw(results: Results, folder: Path) -> list[tuple[str, str]]:
    """Write the plot into ``folder``; its name and what it says, or nothing where there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [name for name in DRAWN if results.of(name, "mixed")]
    if not rows:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    figure, (over, kinds, both) = pyplot.subplots(1, 3, figsize=(16, 6.2), layout="constrained")
    _over_exposures(over, results, rows)
    _by_kind(kinds, results, rows)
    _against_learned(both, results, rows)
    handles = {label: line for axis in (over, both) for line, label in zip(*axis.get_legend_handles_labels(),
                                                                           strict=True)}  # fmt: skip
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncol=4, fontsize=10, frameon=False)
    figure.savefig(folder / "copying.png", dpi=100)
    pyplot.close(figure)
    return [("copying.png", "Excess of own image nearest over exposures, by kind, and beside what was learned")]


def _over_exposures(axis: Any, results: Results, rows: list[str]) -> None:
    cases = [case for case in results.cases("mixed") if case.startswith("exact ")]
    exposures = [int(case.split()[-1]) for case in cases]
    for number, method in enumerate(rows):
        told = [results.excess(method, "mixed", case) for case in cases]
        points = [(e * 1.03 ** (number - len(rows) / 2), f) for e, f in zip(exposures, told, strict=True) if f]
        _line(axis, method, points)
    axis.set(title="exact repeats", xlabel="exposures in the run without a filter (bars: 95 %)", xscale="log")
    axis.set_ylabel("excess: own picture nearest, beyond held-out pairs")
    axis.set_xticks(exposures, [str(level) for level in exposures])
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def _by_kind(axis: Any, results: Results, rows: list[str]) -> None:
    """At the most exposures of each kind."""
    last = {case.split()[0]: case for case in results.cases("mixed")}
    width = 0.8 / len(rows)
    for number, method in enumerate(rows):
        told = [results.excess(method, "mixed", case) for case in last.values()]
        places = np.arange(len(last)) + (number - len(rows) / 2 + 0.5) * width
        there = [(place, found) for place, found in zip(places, told, strict=True) if found]
        axis.bar([p for p, _ in there], [f.difference for _, f in there], width, color=DRAWN[method][0])
    axis.set_xticks(range(len(last)), last.values())
    axis.set(title="by kind of repetition")
    axis.grid(alpha=0.3, axis="y")


def _against_learned(axis: Any, results: Results, rows: list[str]) -> None:
    """Copies that were avoided by learning nothing are no gain."""
    cases = [case for case in results.cases("mixed") if results.counts("mixed", case) is not False]
    for method in rows:
        learned = results.recognised(method, "mixed")
        told = [found.difference for case in cases if (found := results.excess(method, "mixed", case))]
        if learned is None or not told:
            continue
        colour, marker = DRAWN[method]
        axis.plot(float(np.mean(told)), learned.value, marker, color=colour, markersize=10, label=NAMES[method])
        axis.vlines(float(np.mean(told)), learned.low, learned.high, color=colour, linewidth=1, alpha=0.5)
    axis.set(title="what comes back, and what was learned", xlabel="mean excess over the cases that count")
    axis.set_ylabel("held-out captions recognised")
    axis.grid(alpha=0.3)


def _line(axis: Any, method: str, points: list[Any]) -> None:
    colour, marker = DRAWN[method]
    places, width = [place for place, _ in points], 2.5 if method.startswith("ours") else 1.4
    axis.plot(places, [f.difference for _, f in points], marker=marker, markersize=5, label=NAMES[method],
              color=colour, linewidth=width)  # fmt: skip
    axis.vlines(places, [f.low for _, f in points], [f.high for _, f in points], color=colour, linewidth=1, alpha=0.4)
