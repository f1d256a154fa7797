"""The picture of ``scripts/bench quality``."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

from bench_quality_figures import Results

__all__ = ["draw"]


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
        "own image nearest": lambda m, g: results.generated(m, g, "own"),
        "share of pairs dropped": lambda m, g: results.detection(m, g)[2],
    }
    figure, (*axes, beside) = pyplot.subplots(1, len(panels) + 1, figsize=(16, 5.2), width_ratios=[1, 1, 0.9])
    colours = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for axis, (title, read) in zip(axes, panels.items(), strict=True):
        for number, (method, name) in enumerate(names.items()):
            told = [read(method, f"level {level}") for level in exposures] if results.of(method) else []
            points = [(level, f) for level, f in zip(exposures, told, strict=False) if f is not None]
            if points:
                ours = method.startswith("ours")
                apart = 1.02 ** (number - len(names) / 2)  # or intervals would hide each other
                places, rates = [level * apart for level, _ in points], [f.value for _, f in points]
                axis.plot(places, rates, marker="o", markersize=4, label=name, color=colours[number],
                          linewidth=2.5 if ours else 1.3,
                          linestyle="-" if ours or method in ("none", "oracle") else "--")  # fmt: skip
                axis.vlines(places, [f.low for _, f in points], [f.high for _, f in points], color=colours[number],
                            linewidth=1, alpha=0.4)  # fmt: skip
        axis.set(title=title, xlabel="exposures (unfiltered)", xscale="log", ylim=(-0.03, 1.03))
        axis.set_xticks(exposures, [str(level) for level in exposures])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    _draw_harm(beside, results, names, {method: colours[number] for number, method in enumerate(names)})
    handles = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=4, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    figure.savefig(folder / "quality.png", dpi=110)
    pyplot.close(figure)
    return [
        ("quality.png", "Own image nearest and share of pairs dropped over exposures, and held-out loss, by method")
    ]


def _draw_harm(axis: Any, results: Results, names: dict[str, str], colours: dict[str, Any]) -> None:
    """Held-out loss above the oracle's, a bar a method, and beside it the share of ordinary pairs dropped."""
    told = [(m, held) for m in names if (held := results.held_out(m)) is not None and m != "oracle"]
    for place, (method, held) in enumerate(told):
        axis.barh(place, 100 * (held.value - 1), color=colours[method], height=0.7)
        clean = results.false_drops(method)
        said = f"{100 * clean.value:.1f} %" if clean is not None and method not in ("none", "base") else ""
        axis.text(max(100 * (held.value - 1), 0.0) + 0.5, place, said, va="center", fontsize=8)
    axis.set_yticks(range(len(told)), [fill(names[method], 24) for method, _ in told], fontsize=7)
    axis.invert_yaxis()
    axis.set(title="held-out loss above the oracle's, %\n(beside: ordinary pairs dropped)")
    axis.grid(alpha=0.3, axis="x")
    axis.margins(x=0.15)
