"""Numbers of a page as people read them, and in words why a pair was condemned."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from memsieve.pages.run_data import GroupRow

__all__ = ["count", "share", "sig", "why_condemned"]


def count(value: Any) -> str:
    """A whole number with its thousands apart; a dash where it is not known."""
    return "–" if value is None else f"{value:,}"


def sig(value: Any) -> str:
    """Three digits of a number; a dash where it is not known."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return "–" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def share(value: float | None) -> str:
    """A share in per cent."""
    if value is None or not math.isfinite(value):
        return "–"
    percent = 100 * value
    text = f"{percent:.0f}" if percent in (0, 100) or 10 <= percent < 99 else f"{percent:.2g}" if percent < 10 else ""
    return f"{text or f'{percent:.1f}'}\u00a0%"


def why_condemned(row: GroupRow, curve: pa.Table) -> str:
    """Evidence and bar of a pair when it was condemned, in a sentence; empty where nobody wrote them down.

    The ledger has them at the first visit that was dropped. Where pairs are skipped at the loader it has none: then the
    curve of the suspects' evidence says it, at the step nearest to it.

    Args:
        curve: ``evidence.parquet``.
    """
    evidence, bar, step = row.drop_evidence, row.threshold, row.first_drop
    if row.condemned_step is not None and (evidence is None or bar is None):
        evidence, bar, step = _on_curve(row, curve)
    if evidence is None:
        return ""
    when = row.condemned_step if row.condemned_step is not None else step
    text = f"At step {count(when)} its evidence was {sig(evidence)}"
    if when is not None and step is not None and abs(step - when) > 1:
        text = f"Its evidence was {sig(evidence)} at step {count(step)}"
    text += f", the bar {sig(bar)}." if bar is not None else "."
    p = row.drop_p if row.drop_p is not None else row.p_value
    if p is not None and 0 < p < 1:
        text += f" Of clean pairs {share(p)} get so far (p = {sig(p)})."
    return text


def _on_curve(row: GroupRow, curve: pa.Table) -> tuple[float | None, float | None, int | None]:
    points = curve.filter(pc.and_(pc.equal(curve["group"], row.group), pc.is_finite(curve["evidence"]))).to_pylist()
    condemned = row.condemned_step
    points = [point for point in points if point["step"] is not None]
    if condemned is None or not points:
        return row.drop_evidence, row.threshold, row.first_drop
    at = min(points, key=lambda point: (abs(point["step"] - condemned), point["step"]))
    bar = at["threshold"]
    return at["evidence"], bar if bar is not None and math.isfinite(bar) else None, at["step"]
