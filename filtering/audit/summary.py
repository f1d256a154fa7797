"""What an audit found, in numbers: histograms by t, duplicates, the top of the ranking, data errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from memsieve.filtering.audit.describing import REASON
from memsieve.filtering.audit.duplicates import shared_by
from memsieve.filtering.audit.pair_scores import Draws, default_signals, drawn_sample, score_pairs
from memsieve.filtering.audit.query import AuditQuery, Rows
from memsieve.filtering.audit.records import MEASURES, content_of
from memsieve.filtering.audit.select import image_scores
from memsieve.filtering.audit.standing_out import standing_out
from memsieve.filtering.audit.status import Status
from memsieve.filtering.audit.table import Array
from memsieve.filtering.audit.truth import judge_ranking, ranked_with_truth

__all__ = ["Pair", "Summary", "summarise"]

T_BINS: Final = 4
HISTOGRAM_BINS: Final = 40
MOST_ERRORS: Final = 100
QUANTILES: Final = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0)


@dataclass(slots=True)
class Pair:
    """One image of the audit with all its copies; numbers are of its first row, ``score`` is the mean over its rows."""

    content: str
    shard: str
    index: int
    part: int
    key: str
    caption: str
    copies: int
    score: float | None
    measures: dict[str, tuple[float | None, float | None]]
    """Mean and standard error over draws, by name."""
    planted: bool | None = None


@dataclass(slots=True)
class Summary:
    """The numbers, as ``summary.json`` holds them, and what only the page shows."""

    values: dict[str, Any]
    histograms: dict[str, list[tuple[str, Array, Array]]]
    """By measure: (label of the t-bin, edges [H + 1], counts [H])."""
    curve: tuple[list[float], list[float]]
    """Cut-offs, and the share of pairs that score higher."""
    top: list[Pair]
    duplicates: list[dict[str, Any]]
    captions: list[dict[str, Any]]
    """Captions that different images share, of most images first: ``caption``, ``images``, ``samples``, and some of the
    images by their places (``pictures``)."""
    looks: list[dict[str, Any]]
    """Near-duplicates: images that look alike, in the same form."""
    errors: list[dict[str, Any]]
    about: dict[str, Any]
    status: Status
    notes: list[str] = field(default_factory=list)


def summarise(
    run: Path,
    *,
    top: int = 100,
    signals: tuple[str, ...] = (),
    reference: Path | None = None,
    truth: Path | None = None,
    planted_from: int = 50,
) -> Summary:
    """Everything that a report of the audit in ``run`` says.

    An audit that is not complete is summed up as far as it is, and the numbers say so.

    Args:
        top: images in the ranking.
        signals: what is ranked by; see ``score_pairs``.
        reference: the base model's audit of the same data.
        truth: a ``truth.parquet`` (columns ``group``, ``repeats``) of a dataset with planted duplicates; adds how well
            the ranking finds pairs with at least ``planted_from`` repeats.

    Raises:
        SettingsError: ``run`` is no audit, or nothing of it is done.
    """
    with AuditQuery() as query:
        rows = query.add("audit", run, partial=True)
        modelled = rows.about["deciding"]["model"] is not None
        signals = signals or default_signals(rows, reference)
        base = query.add("base", reference, partial=True) if reference is not None else None
        if modelled:
            score_pairs(query, rows, signals, reference=base)
        else:
            query.run("CREATE VIEW audit_scores AS SELECT NULL::BIGINT AS row, NULL::DOUBLE AS score WHERE false")
        ordered = np.sort(image_scores(query, rows))[::-1]
        shared, sample = shared_by(query, rows), drawn_sample(query, rows) if modelled else None
        pairs = query.number("SELECT count(*) FROM audit_images")
        numbers: dict[str, Any] = {"audit": str(run), **rows.status.as_dict(), "pairs": pairs}
        numbers |= {"scored_pairs": len(ordered), "signal": "+".join(signals) if modelled else None}
        numbers["score_quantiles"] = _quantiles(ordered)
        gap = standing_out(ordered)
        numbers["standing_out"] = None if gap is None else gap.as_dict()
        numbers["measures"] = _measures(sample)
        numbers |= {**shared.counts, **_made_by(rows, base), "not_described": _not_described(query, rows)}
        ranked = _top(query, top)
        if truth is not None:
            numbers["truth"] = _judge(query, ranked, truth, planted_from)
        histograms = _all_histograms(rows, sample)
        curve, errors = _curve(ordered), _errors(query)
        return Summary(
            numbers,
            histograms,
            curve,
            ranked,
            shared.groups,
            shared.captions,
            shared.looks,
            errors,
            rows.about,
            rows.status,
        )


def _made_by(rows: Rows, reference: Rows | None) -> dict[str, Any]:
    """The settings and models that the numbers are of."""
    deciding = rows.about["deciding"]
    return {
        "settings": {name: value for name, value in deciding.items() if name != "model"},
        "model": deciding["model"],
        "reference": None if reference is None else reference.about["deciding"]["model"],
    }


def _not_described(query: AuditQuery, rows: Rows) -> dict[str, int]:
    """Pictures that could be read and have no descriptor, by the reason; none where nothing was described."""
    if REASON not in pq.read_schema(rows.parts[0].file).names:
        return {}
    counted = query.rows(f"SELECT {REASON}, count(*) FROM audit WHERE {REASON} IS NOT NULL GROUP BY ALL ORDER BY ALL")
    return {str(reason): int(number) for reason, number in counted}


def _judge(query: AuditQuery, ranked: list[Pair], truth: Path, planted_from: int) -> dict[str, Any]:
    """How well the ranking finds planted pairs; notes on each of ``ranked`` whether it is one."""
    scores, repeats = ranked_with_truth(query, truth)
    for pair, count in zip(ranked, repeats, strict=False):
        pair.planted = bool(count >= planted_from)
    return judge_ranking(scores, repeats, planted_from, truth)


def _top(query: AuditQuery, count: int) -> list[Pair]:
    """Images with the highest scores; of equal ones the first in the audit's order."""
    columns = ", ".join(f"a.{name}_{part}" for name in MEASURES for part in ("mean", "se"))
    found = []
    for sha256, shard, index, part, key, caption, copies, score, *means in query.rows(
        f"SELECT a.sha256, a.shard, a.index, a.part, a.key, a.caption, i.copies, i.score, {columns} "
        f"FROM (SELECT * FROM audit_images WHERE score IS NOT NULL ORDER BY score DESC, first LIMIT {int(count)}) i "
        "JOIN audit a ON a.row = i.first ORDER BY i.score DESC, i.first"
    ):
        measures = {name: (means[2 * i], means[2 * i + 1]) for i, name in enumerate(MEASURES)}
        found.append(Pair(content_of(sha256), shard, index, part or 0, key, caption or "", copies, score, measures))
    return found


def _measures(sample: Draws | None) -> dict[str, dict[str, float]]:
    """Quantiles of what was measured; of a million pairs by chance where there are more."""
    return {} if sample is None else {name: _quantiles(sample.values[name].ravel()) for name in MEASURES}


def _all_histograms(rows: Rows, sample: Draws | None) -> dict[str, list[tuple[str, Array, Array]]]:
    if sample is None:
        return {}
    steps = int(rows.about["deciding"]["model"]["num_train_timesteps"])
    return {name: _histograms(sample.values[name].ravel(), sample.timesteps.ravel(), steps) for name in MEASURES}


def _histograms(values: Array, timesteps: Array, steps: int) -> list[tuple[str, Array, Array]]:
    """One histogram per t-bin over common edges, cut at the 99.9th percentile so that one value does not flatten it."""
    known = np.isfinite(values)
    if not known.any():
        return []
    low, high = np.quantile(values[known], [0.001, 0.999])
    edges = np.linspace(low, max(high, low + 1e-6), HISTOGRAM_BINS + 1)
    found = []
    for number in range(T_BINS):
        start, stop = number * steps // T_BINS, (number + 1) * steps // T_BINS
        inside = values[known & (timesteps >= start) & (timesteps < stop)]
        counts, _ = np.histogram(np.clip(inside, edges[0], edges[-1]), bins=edges)
        found.append((f"t {start} to {stop - 1}", edges, counts))
    return found


def _curve(descending: Array) -> tuple[list[float], list[float]]:
    """Share of pairs above each cut-off, at up to 300 cut-offs."""
    if not len(descending):
        return [], []
    ascending = descending[::-1]
    places = np.unique(np.linspace(0, len(ascending) - 1, 300).astype(int))
    cuts = ascending[places]
    return cuts.tolist(), (1.0 - np.searchsorted(ascending, cuts, side="right") / len(ascending)).tolist()


def _quantiles(values: Array) -> dict[str, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    return {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}


def _errors(query: AuditQuery) -> list[dict[str, Any]]:
    names = ("shard", "index", "key", "status", "error")
    rows = query.rows(f"SELECT {', '.join(names)} FROM audit WHERE status <> 'ok' ORDER BY row LIMIT {MOST_ERRORS}")
    return [dict(zip(names, row, strict=True)) for row in rows]
