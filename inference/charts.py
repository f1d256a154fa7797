"""Pictures of results: the histogram of a detection, and words coloured by significance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["heat_colour", "histogram", "side_by_side", "word_picture"]

COLOURS = ("#2f6db5", "#c4471f", "#23805a")


def histogram(
    path: Path, groups: Mapping[str, npt.NDArray[np.float64]], *, threshold: float | None = None, label: str = ""
) -> None:
    """Scores of named groups over shared bins, each as a share of its own group, with the threshold."""
    from matplotlib.figure import Figure

    values = [scores[np.isfinite(scores)] for scores in groups.values()]
    everything = np.concatenate(values)
    if threshold is not None:
        everything = np.append(everything, threshold)
    edges = np.linspace(everything.min(), everything.max() + 1e-9, 41)
    figure = Figure(figsize=(7, 3.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    for (name, _), scores, colour in zip(groups.items(), values, COLOURS, strict=False):
        if len(scores):
            weights = np.full(len(scores), 1 / len(scores))
            axes.hist(
                scores, edges.tolist(), weights=weights, color=colour, alpha=0.55, label=f"{name} ({len(scores)})"
            )
    if threshold is not None:
        axes.axvline(threshold, color="#1c1f23", linestyle="--", linewidth=1, label=f"threshold {threshold:.3g}")
    axes.set_xlabel("score" + (f" ({label})" if label else ""))
    axes.set_ylabel("share of prompts")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)


def heat_colour(share: float) -> str:
    """White to a dark orange for 0 to 1, as #rrggbb; black text is readable on all of it."""
    share = min(max(share, 0.0), 1.0)
    low, high = (255, 255, 255), (240, 120, 60)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))


def word_picture(path: Path, words: Sequence[tuple[str, float]], *, title: str = "", width: int = 62) -> None:
    """Words on coloured boxes with their number below, wrapped after about ``width`` characters."""
    from matplotlib.figure import Figure

    top = max((value for _, value in words), default=0.0) or 1.0
    lines: list[list[tuple[str, float]]] = [[]]
    used = 0
    for word, value in words:
        shown = word if len(word) <= width else word[: width - 1] + "…"
        if used and used + len(shown) > width:
            lines.append([])
            used = 0
        lines[-1].append((shown, value))
        used += max(len(shown), 5) + 2
    height = 0.55 * len(lines) + 0.5
    figure = Figure(figsize=(8, height), dpi=130)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width + 8)
    axes.set_ylim(-height, 0)
    # parse_math: a prompt may hold dollar signs, and matplotlib would read mathematics between them
    plain: dict[str, Any] = {"family": "DejaVu Sans Mono", "parse_math": False}
    axes.text(1, -0.3, title, fontsize=9, color="#5a6068", **plain)
    for row, line in enumerate(lines):
        x = 1.0
        for word, value in line:
            box = {"boxstyle": "round,pad=0.25", "facecolor": heat_colour(value / top), "edgecolor": "#dcdcd6"}
            y = -0.62 - 0.55 * row
            axes.text(x + 0.4, y, word, fontsize=11, bbox=box, **plain)
            axes.text(x + 0.4, y - 0.2, f"{value:.2g}", fontsize=6.5, color="#5a6068", **plain)
            x += max(len(word) * 0.8, 3) + 1.6
    figure.savefig(path)


def side_by_side(path: Path, rows: Mapping[str, Tensor], height: float = 1.3) -> None:
    """Rows of images [N, 3, H, W] in [-1, 1] under each other, each with its name."""
    from matplotlib.figure import Figure

    count = max(len(images) for images in rows.values())
    figure = Figure(figsize=(height * count + 0.2, (height + 0.3) * len(rows)), dpi=130, layout="constrained")
    for axes_row, (name, images) in zip(figure.subplots(len(rows), count, squeeze=False), rows.items(), strict=True):
        axes_row[0].set_title(name, loc="left", fontsize=9)
        for axes in axes_row:
            axes.set_axis_off()
        for axes, image in zip(axes_row, images, strict=False):
            axes.imshow(((image + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    figure.savefig(path)
