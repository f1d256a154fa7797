"""What an audit found, in numbers: histograms by t, duplicates, the top of the ranking, data errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from memsieve.filtering.audit.duplicates import shared_by
from memsieve.filtering.audit.records import MEASURES, content_of
from memsieve.filtering.audit.status import Status, audit_status
from memsieve.filtering.audit.table import (
    PLAIN,
    Array,
    Scores,
    default_signals,
    distinct_rows,
    load_scores,
    pair_scores,
)
from memsieve.filtering.audit.truth import judge_ranking, repeats_of

__all__ = ["Pair", "Summary", "summarise"]

T_BINS: Final = 4
HISTOGRAM_BINS: Final = 40
MOST_ERRORS: Final = 100
QUANTILES: Final = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0)


@dataclass(slots=True)
class Pair:
    """One image of the audit with all its copies; numbers are of its first row, ``score`` is its highest."""

    content: str
    shard: str
    index: int
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
        top: pairs in the ranking.
        signals: what is ranked by; see ``pair_scores``.
        reference: the base model's audit of the same data.
        truth: a ``truth.parquet`` (columns ``group``, ``repeats``) of a dataset with planted duplicates; adds how well
            the ranking finds pairs with at least ``planted_from`` repeats.

    Raises:
        SettingsError: ``run`` is no audit, or nothing of it is done.
    """
    status = audit_status(run)
    columns = (*PLAIN, "caption", *(f"{name}_{part}" for name in MEASURES for part in ("mean", "se")))
    scores = load_scores(run, partial=True, columns=columns)
    modelled = scores.about["deciding"]["model"] is not None
    signals = signals or default_signals(scores, reference)
    base = load_scores(reference, partial=True) if reference is not None else None
    values, _ = pair_scores(scores, signals, reference=base) if modelled else (np.full(len(scores), np.nan), None)
    pairs = _pairs(scores, values)
    ranked = sorted((p for p in pairs if p.score is not None), key=lambda p: -(p.score or 0.0))
    ordered = np.array([p.score for p in ranked], dtype=float)
    shared = shared_by(scores)
    numbers: dict[str, Any] = {"audit": str(run), **status.as_dict(), "pairs": len(pairs), "scored_pairs": len(ranked)}
    numbers |= {"signal": "+".join(signals) if modelled else None, "score_quantiles": _quantiles(ordered)}
    numbers["measures"] = {name: _quantiles(scores.draws[name].ravel()) for name in MEASURES} if modelled else {}
    numbers |= {**shared.counts, **_made_by(scores, base)}
    if truth is not None:
        numbers["truth"] = _judge(ranked, truth, planted_from)
    first = distinct_rows(scores)
    histograms = {name: _histograms(scores, name, first) for name in MEASURES} if modelled else {}
    errors = _errors(scores)
    return Summary(numbers, histograms, _curve(ordered), ranked[:top], shared.groups, errors, scores.about, status)


def _made_by(scores: Scores, reference: Scores | None) -> dict[str, Any]:
    """The settings and models that the numbers are of."""
    deciding = scores.about["deciding"]
    return {
        "settings": {name: value for name, value in deciding.items() if name != "model"},
        "model": deciding["model"],
        "reference": None if reference is None else reference.about["deciding"]["model"],
    }


def _judge(ranked: list[Pair], truth: Path, planted_from: int) -> dict[str, Any]:
    """How well the ranking finds planted pairs; notes on each pair whether it is one."""
    repeats = repeats_of([pair.content for pair in ranked], truth)
    for pair, count in zip(ranked, repeats, strict=True):
        pair.planted = bool(count >= planted_from)
    return judge_ranking(np.array([pair.score for pair in ranked], dtype=float), repeats, planted_from, truth)


def _pairs(scores: Scores, values: Array) -> list[Pair]:
    found: dict[str, Pair] = {}
    names = ["sha256", "shard", "index", "key", "caption", *(f"{m}_{p}" for m in MEASURES for p in ("mean", "se"))]
    columns = [scores.table[name].to_pylist() for name in names]
    for value, sha256, shard, index, key, caption, *means in zip(values.tolist(), *columns, strict=True):
        if sha256 is None:
            continue
        content = content_of(sha256)
        pair = found.get(content)
        if pair is None:
            measures = {name: (means[2 * i], means[2 * i + 1]) for i, name in enumerate(MEASURES)}
            pair = found[content] = Pair(content, shard, index, key, caption or "", 0, None, measures)
        pair.copies += 1
        if not math.isnan(value) and (pair.score is None or value > pair.score):
            pair.score = value
    return list(found.values())


def _histograms(scores: Scores, name: str, rows: Array) -> list[tuple[str, Array, Array]]:
    """One histogram per t-bin over common edges, cut at the 99.9th percentile so that one value does not flatten it."""
    # Copies of a pair draw the same; counted once each, they do not drown the others.
    values, timesteps = scores.draws[name][rows].ravel(), scores.timesteps[rows].ravel()
    known = np.isfinite(values)
    if not known.any():
        return []
    steps = int(scores.about["deciding"]["model"]["num_train_timesteps"])
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


def _errors(scores: Scores) -> list[dict[str, Any]]:
    status = scores.table["status"]
    bad = scores.table.filter(pc.not_equal(status, "ok")).slice(0, MOST_ERRORS)
    rows: list[dict[str, Any]] = bad.select(["shard", "index", "key", "status", "error"]).to_pylist()
    return rows
