"""Which charts a run's page shows, and from which of its records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from memsieve.pages.run_data import RunData, asked_of_all, deciding_signal
from memsieve.pages.run_plots import Band, Series, line_chart, smooth, thin

__all__ = ["run_charts"]

MOST_LINES, TIMESTEP_BINS = 24, 10


def run_charts(data: RunData, removed: set[str]) -> list[dict[str, Any]]:
    """The charts of a run; each a title, svg (empty where not recorded), legend of (style, name), and a remark.

    ``removed`` names the groups to draw as removed.
    """
    charts: list[dict[str, Any]] = []

    def add(title: str, y_label: str, series: list[Series], legend: list[tuple[str, str]], remark: str, **more: Any):
        svg = line_chart(series, label=f"{title}. {remark}", y_label=y_label, **more)
        if svg or not asked_of_all(data):  # a run that asks its model measures no magnitudes
            charts.append({"title": title, "svg": svg, "legend": legend if svg else [], "remark": remark})

    def metric(name: str) -> tuple[list[float], list[float]]:
        return data.metrics.get(name, ([], []))

    x, y = metric("train/loss")
    lines = [Series("each step", *thin(x, y), "c0 faint"), Series("moving mean", *thin(x, smooth(y)), "c0")]
    add("Training loss", "loss", lines, [("c0", "moving mean"), ("c0 faint", "as logged")], "Of the kept samples.")
    lines = [Series("held-out", *thin(*metric("val/heldout_loss")), "c2 dots")]
    lines += [Series("training pairs", *thin(*metric("val/train_loss")), "c0 dots")]
    legend = [("c2", "held-out pairs"), ("c0", "training pairs")] if lines[1].x else []
    remark = "On pairs never trained on: if it rises, or leaves the training pairs behind, the run overfits."
    add("Held-out loss", "loss", lines, legend, remark)
    if asked_of_all(data):
        title, remark = "Pairs that come back", "Of drawings of their captions, from the base on; and pairs retired."
        add(title, "%", *_recall(data), remark)
    for title, y_label, lines, legend, remark in (*_deciding(data), *_copies(data)):
        add(title, y_label, lines, legend, remark)
    x, y = metric("mem/dropped_frac")
    y = [100 * value for value in y]
    lines = [Series("each step", *thin(x, y), "c1 faint"), Series("moving mean", *thin(x, smooth(y)), "c1")]
    add(
        "Dropped share of each batch",
        "%",
        lines,
        [("c1", "moving mean"), ("c1 faint", "as logged")],
        "Visits kept out of the update.",
    )
    lines = [Series("mean", *_smooth(*metric("mem/magnitude_mean")), "c0")]
    lines += [Series("95th percentile", *_smooth(*metric("mem/magnitude_p95")), "c3")]
    legend = [("c0", "mean"), ("c3", "95th percentile")]
    add("Text-conditional magnitude", "magnitude", lines, legend, "How much the prompt changes the prediction.")
    lines, bands, legend = _magnitude_by_timestep(data)
    remark = "Median and middle half of scored visits, by noise level."
    add("Magnitude by timestep", "magnitude", lines, legend, remark, x_label="timestep", bands=bands)
    lines, legend = _evidence(data, removed)
    add("Evidence of top suspects", "evidence", lines, legend, "Condemned above the dashed bar.")
    return charts


def _recall(data: RunData) -> tuple[list[Series], list[tuple[str, str]]]:
    """Shares of drawings, and of pairs, in per cent."""
    pairs = max(data.metrics["mem/pairs"][1])
    kinds = (("mem/own_image_rate", "own picture nearest", "c0", 1.0), ("mem/copy_rate", "come back", "c1", 1.0),
             ("mem/retired_pairs", "pairs retired", "c3", max(pairs, 1.0)))  # fmt: skip
    series, legend = [], []
    for name, label, style, whole in kinds:
        x, y = data.metrics.get(name, ([], []))
        series.append(Series(label, *thin(x, [100 * value / whole for value in y]), f"{style} dots"))
        legend.append((style, label))
    return series, legend


Chart = tuple[str, str, list[Series], list[tuple[str, str]], str]


def _deciding(data: RunData) -> list[Chart]:
    """The signal that decides, where it is neither the magnitude nor drawings: those have their own charts."""
    name = deciding_signal(data.config)
    if asked_of_all(data) or name in (None, "magnitude") or f"mem/{name}_mean" not in data.metrics:
        return []
    lines, legend = [], []
    for part, label, style in (("mean", "mean", "c0"), ("p95", "95th percentile", "c3")):
        if f"mem/{name}_{part}" in data.metrics:
            lines.append(Series(label, *_smooth(*data.metrics[f"mem/{name}_{part}"]), style))
            legend.append((style, label))
    words = str(name).replace("_", " ")
    return [(f"{words.capitalize()}, which decides", words, lines, legend, "Of measured visits: the filter's signal.")]


def _copies(data: RunData) -> list[Chart]:
    """How many drawings come back at each validation, where the run drew any."""
    kinds = (("val/suspects_copy_rate", "most suspected pairs", "c1"), ("val/probe_copy_rate", "prompts", "c0"))
    lines, legend = [], []
    for name, label, style in kinds:
        if name in data.metrics:
            x, y = data.metrics[name]
            lines.append(Series(label, *thin(x, [100 * value for value in y]), f"{style} dots"))
            legend.append((style, label))
    remark = "Share of drawings that are copies, at each validation."
    return [("Drawings that come back", "%", lines, legend, remark)] if lines else []


def _smooth(x: list[float], y: list[float]) -> tuple[list[float], list[float]]:
    return thin(x, smooth(y))


def _magnitude_by_timestep(data: RunData) -> tuple[list[Series], list[Band], list[tuple[str, str]]]:
    kinds = (("held_out", "held out", "c2"), ("drop", "dropped", "c1"))
    table = data.ledger.filter(pc.and_(pc.is_valid(data.ledger["timestep"]), pc.is_valid(data.ledger["magnitude"])))
    top = max(1000, (pc.max(table["timestep"]).as_py() or 0) + 1)
    series, bands, legend = [], [], []
    for action, name, style in kinds:
        part = table.filter(pc.equal(table["action"], action))
        magnitude, timestep = part["magnitude"].to_numpy(), part["timestep"].to_numpy()
        where = np.minimum(timestep * TIMESTEP_BINS // top, TIMESTEP_BINS - 1)
        bins = [magnitude[(where == number) & np.isfinite(magnitude)] for number in range(TIMESTEP_BINS)]
        x = [(number + 0.5) * top / TIMESTEP_BINS for number, values in enumerate(bins) if len(values) >= 3]
        quartiles = [np.quantile(values, [0.25, 0.5, 0.75]).tolist() for values in bins if len(values) >= 3]
        if not x:
            continue
        low, middle, high = zip(*quartiles, strict=True)
        series.append(Series(name, x, middle, f"{style} dots"))
        bands.append(Band(x, low, high, style))
        legend.append((style, f"{name} ({len(part):,})"))
    return series, bands, legend


def _evidence(data: RunData, removed: set[str]) -> tuple[list[Series], list[tuple[str, str]]]:
    table = data.evidence.filter(pc.and_(pc.is_valid(data.evidence["step"]), pc.is_finite(data.evidence["evidence"])))
    table = table.sort_by("step")
    top = table.group_by("group").aggregate([("evidence", "max")]).sort_by([("evidence_max", "descending")])
    series, condemned, others = [], 0, 0
    for name in top["group"].to_pylist()[:MOST_LINES]:
        part = table.filter(pc.equal(table["group"], name))
        caught = name in removed
        condemned, others = condemned + caught, others + (not caught)
        x, y = thin(part["step"].to_pylist(), part["evidence"].to_pylist(), 120)
        series.append(Series(name, x, y, "c1" if caught else "c4"))
    bar = table.filter(pc.is_finite(table["threshold"])).group_by("step").aggregate([("threshold", "max")])
    bar = bar.sort_by("step")
    legend = [("c1", f"removed ({condemned})"), ("c4", f"not removed ({others})")]
    if len(bar):
        points = thin(bar["step"].to_pylist(), bar["threshold_max"].to_pylist(), 120)
        series.append(Series("threshold", *points, "c5 dashed"))
        legend.append(("c5 dashed", "threshold"))
    series.sort(key=lambda line: line.style != "c4")
    return series, legend
