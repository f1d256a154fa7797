"""The picture of ``scripts/bench quality``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.quality.figures import Results

__all__ = ["draw"]

LINES: Final = {
    "none": ("#000000", "-", "o"),
    "oracle": ("#7f7f7f", "-", "s"),
    "ours": ("#1f77b4", "-", "o"),
    "ours_sieve": ("#d62728", "-", "o"),
    "paper": ("#9467bd", "--", "^"),
    "iet_agc": ("#8c564b", "--", "v"),
    "cap": ("#e69f00", "--", "D"),
    "dedup": ("#2ca02c", "--", "P"),
}
"""Colour, line and marker of the methods that are drawn by exposures; the others have a bar and their tables."""
OTHER: Final = "#a8a8a8"
LONGEST: Final = 14
"""Percent of held-out loss at which a bar is cut."""


def draw(results: Results, names: dict[str, str], folder: Path) -> list[tuple[str, str]]:
    """Own image nearest and share dropped over exposures, one line a method, and what each method costs others."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cell = next(iter(results.of("none") or results.cells.values()))
    passes = cell["settings"]["spec"]["passes"]
    exposures = [int(level) * passes for level, pairs in cell["settings"]["spec"]["levels"] if pairs]
    folder.mkdir(parents=True, exist_ok=True)
    panels = {
        "nearest training image is the pair's own": lambda m, g: results.generated(m, g, "own"),
        "pairs dropped": lambda m, g: results.detection(m, g)[2],
    }
    figure, (*axes, beside) = pyplot.subplots(1, len(panels) + 1, figsize=(16, 6.4), layout="constrained")
    for axis, (title, read) in zip(axes, panels.items(), strict=True):
        for number, method in enumerate(LINES):
            told = [read(method, f"level {level}") for level in exposures] if results.of(method) else []
            points = [(level, f) for level, f in zip(exposures, told, strict=False) if f is not None]
            if points:
                _line(axis, method, names[method], points, apart=1.03 ** (number - len(LINES) / 2))
        axis.set(title=title, xlabel="exposures in the unfiltered run (bars: 95 %)", xscale="log", ylim=(-0.03, 1.03))
        axis.set_ylabel("share of generations" if axis is axes[0] else "share of pairs")
        axis.set_xticks(exposures, [str(level) for level in exposures])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    _draw_harm(beside, results, names)
    handles = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncol=4, fontsize=10, frameon=False)
    figure.savefig(folder / "quality.png", dpi=100)
    pyplot.close(figure)
    return [
        ("quality.png", "Own image nearest and share of pairs dropped over exposures, and held-out loss, by method")
    ]


def _line(axis: Any, method: str, name: str, points: list[Any], apart: float) -> None:
    """``apart``: factor on the exposures, or lines would hide each other."""
    colour, style, marker = LINES[method]
    places, rates = [level * apart for level, _ in points], [f.value for _, f in points]
    width = 2.5 if method.startswith("ours") else 1.4
    axis.plot(places, rates, marker=marker, markersize=5, label=name, color=colour, linewidth=width, linestyle=style)
    axis.vlines(places, [f.low for _, f in points], [f.high for _, f in points], color=colour, linewidth=1, alpha=0.4)


def _draw_harm(axis: Any, results: Results, names: dict[str, str]) -> None:
    """Held-out loss above the oracle's, a bar a method, and beside it the share of ordinary pairs dropped."""
    told = [(m, held) for m in names if (held := results.held_out(m)) is not None and m != "oracle"]
    for place, (method, held) in enumerate(told):
        above = 100 * (held.value - 1)
        axis.barh(place, min(above, LONGEST), color=LINES.get(method, (OTHER,))[0], height=0.7)
        clean = results.false_drops(method) if method not in ("none", "base") else None
        said = f"{above:.1f} %" + (f"; {100 * clean.value:.1f} % dropped" if clean is not None else "")
        inside = above > LONGEST / 2
        axis.text(min(max(above, 0.0), LONGEST) + (-0.2 if inside else 0.2), place, said, va="center", fontsize=9,
                  ha="right" if inside else "left", color="white" if inside else "black")  # fmt: skip
    axis.set_yticks(range(len(told)), [names[method] for method, _ in told], fontsize=8)
    axis.invert_yaxis()
    axis.set(title="held-out loss above the oracle's;\nordinary pairs dropped", xlim=(-0.5, LONGEST))
    axis.set_xlabel(f"% (longer bars are cut at {LONGEST})")
    axis.grid(alpha=0.3, axis="x")
