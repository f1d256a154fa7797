"""Audits written by hand, asked as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from memsieve.filtering.audit.pair_scores import score_pairs
from memsieve.filtering.audit.query import AuditQuery, Rows
from tests.filtering.audit.written import DECIDING, write_audit

__all__ = ["added", "scores_of"]


def added(query: AuditQuery, name: str, root: Path, *rows: dict[str, Any], **deciding: Any) -> Rows:
    """An audit of ``rows``, written to ``root`` and opened as ``name``."""
    return query.add(name, write_audit(root, list(rows), DECIDING | deciding))


def scores_of(query: AuditQuery, rows: Rows, signals: tuple[str, ...], **others: Rows) -> np.ndarray:
    """The score of each row, in order, NaN where there is none."""
    query.run(f"DROP VIEW IF EXISTS {rows.name}_scores")
    score_pairs(query, rows, signals, **others)
    found = query.numbers(
        f"SELECT s.score FROM {rows.name} a LEFT JOIN {rows.name}_scores s ON s.row = a.row ORDER BY a.row"
    )["score"]
    return np.ma.filled(np.ma.asarray(found, dtype=float), np.nan)
