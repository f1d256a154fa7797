"""Small line charts as inline SVG, coloured by the page's own style so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

__all__ = ["Band", "Series", "line_chart", "smooth", "thin"]

WIDTH, HEIGHT = 390, 230
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 38


@dataclass(frozen=True, slots=True)
class Series:
    """One line. ``style`` is a class of the page: c0..c5 colour it; faint, dashed and dots change how it is drawn."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "c0"


@dataclass(frozen=True, slots=True)
class Band:
    """A shaded range between ``low`` and ``high``."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    style: str = "c0"


def thin(x: Sequence[float], y: Sequence[float], most: int = 300) -> tuple[list[float], list[float]]:
    """At most ``most`` points, each the mean of its neighbours."""
    if len(x) <= most:
        return list(x), list(y)
    parts = np.array_split(np.arange(len(x)), most)
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    return [float(xs[part].mean()) for part in parts], [float(ys[part].mean()) for part in parts]


def smooth(y: Sequence[float], share: float = 0.04) -> list[float]:
    """A centred moving mean over ``share`` of the points."""
    half = int(len(y) * share / 2)
    total = np.concatenate([[0.0], np.cumsum(np.asarray(y, dtype=float))])
    edges = [(max(0, i - half), min(len(y), i + half + 1)) for i in range(len(y))]
    return [float((total[high] - total[low]) / (high - low)) for low, high in edges]


def line_chart(
    series: Sequence[Series], *, label: str, y_label: str, x_label: str = "step", bands: Sequence[Band] = ()
) -> Markup:
    """The chart as an ``<svg>`` element, empty where there is nothing to draw.

    ``label`` is read to people who cannot see it. The y axis starts at 0 where the values come near it, and is
    logarithmic where all are positive and they span more than a factor of 300.
    """
    series = [line for line in series if len(line.x)]
    if not series:
        return Markup("")
    xs = [float(value) for line in series for value in line.x]
    ys = [float(value) for line in series for value in line.y]
    ys += [float(value) for band in bands for edge in (band.low, band.high) for value in edge]
    axes = _Axes.around(xs, ys)
    out = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    out += [*axes.grid(), *axes.names(x_label, y_label)]
    for band in bands:
        points = axes.path([*band.x, *reversed(band.x)], [*band.low, *reversed(band.high)])
        out.append(f'<polygon class="band {escape(band.style)}" points="{points}"/>')
    for line in series:
        style = escape(line.style)
        if len(line.x) > 1:
            out.append(f'<polyline class="line {style}" points="{axes.path(line.x, line.y)}"/>')
        if len(line.x) == 1 or "dots" in line.style:
            for a, b in zip(line.x, line.y, strict=True):
                x, y = axes.across(float(a)), axes.up(float(b))
                out.append(f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    out.append("</svg>")
    return Markup("".join(out))


@dataclass(frozen=True, slots=True)
class _Axes:
    """From values to places in the picture; the range of a logarithmic y axis is that of the powers of ten."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_ticks: list[float]
    y_ticks: list[float]
    logarithmic: bool

    @classmethod
    def around(cls, xs: Sequence[float], ys: Sequence[float]) -> _Axes:
        """Axes that hold all of the values."""
        logarithmic = min(ys) > 0 and max(ys) / min(ys) > 300
        if logarithmic:
            low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
            step = max(1, (high - low) // 5)
            y_ticks, y_range = [10.0**power for power in range(low, high + 1, step)], (float(low), float(high))
        else:
            bottom, top = min(ys), max(ys)
            bottom = 0.0 if 0 <= bottom < 0.4 * top else bottom
            y_ticks = _ticks(bottom, top, 5)
            pad = 0.06 * ((top - bottom) or abs(top) or 1.0)
            y_range = (bottom if bottom == 0 else bottom - pad, top + pad)
        x_range = (min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1)
        return cls(x_range, y_range, _ticks(min(xs), max(xs), 5), y_ticks, logarithmic)

    def across(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def up(self, value: float) -> float:
        """Pixels from the top."""
        value, (low, high) = self._shown(value), self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def path(self, x: Sequence[float], y: Sequence[float]) -> str:
        """The points of a line."""
        return " ".join(f"{self.across(float(a)):.1f},{self.up(float(b)):.1f}" for a, b in zip(x, y, strict=True))

    def grid(self) -> Iterator[str]:
        """Lines and numbers at the ticks."""
        for tick in self.y_ticks:
            if self.y_range[0] <= self._shown(tick) <= self.y_range[1]:
                y = self.up(tick)
                yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
        for tick in self.x_ticks:
            x, y = self.across(tick), HEIGHT - BOTTOM + 16
            yield f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{_short(tick)}</text>'

    def names(self, x_label: str, y_label: str) -> Iterator[str]:
        """The x axis, and what both axes are of."""
        base, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
        yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>'
        yield f'<text class="name" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
        turned = f'transform="translate(11 {(TOP + base) / 2}) rotate(-90)" text-anchor="middle"'
        yield f'<text class="name" {turned}>{escape(y_label)}</text>'

    def _shown(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers within [low, high], about ``wanted`` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    """A tick's text: 1200 -> 1.2k."""
    if value == 0 or abs(value) < 1e-12:
        return "0"
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if suffix == 'k' else size):.4g}{suffix}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
