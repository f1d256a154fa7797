"""How well a ranking finds pairs that are known to be planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.audit.query import AuditQuery
from memsieve.filtering.audit.table import Array
from memsieve.filtering.settings import SettingsError
from memsieve.filtering.statistics import auc

__all__ = ["judge_ranking", "ranked_with_truth"]


def ranked_with_truth(query: AuditQuery, truth: Path) -> tuple[Array, Array]:
    """Scores of ``audit_images``, highest first, float64 [N], and how often each image stands in the training shards by
    ``truth`` (columns ``group``, ``repeats``), int64 [N]; 0 where it says nothing.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        table = pq.read_table(truth, columns=["group", "repeats"])
    except (OSError, pa.ArrowException) as error:
        raise SettingsError(f"--truth '{truth}' cannot be read: {error}") from None
    query.connection.register("incoming", table)
    # A truth may name an image by its whole sha256.
    query.run(
        'CREATE TABLE truth AS SELECT try_cast(substr("group", 1, 32) AS UUID) AS content, '
        "max(CAST(repeats AS BIGINT)) AS repeats FROM incoming GROUP BY ALL"
    )
    query.connection.unregister("incoming")
    found = query.numbers(
        "SELECT i.score, coalesce(t.repeats, 0) AS repeats FROM audit_images i "
        "LEFT JOIN truth t ON t.content = i.content WHERE i.score IS NOT NULL ORDER BY i.score DESC, i.first"
    )
    return np.asarray(found["score"], dtype=np.float64), np.asarray(found["repeats"], dtype=np.int64)


def judge_ranking(scores: Array, repeats: Array, planted_from: int, truth: Path) -> dict[str, Any]:
    """AUC and precision at k of scores in descending order, for pairs planted at least ``planted_from`` times; and the
    AUC of the pairs planted alike, each kind against the pairs that were not planted.

    Raises:
        SettingsError: there is no such pair, or no other; the message names ``truth``.
    """
    hits = repeats >= planted_from
    if not hits.any() or hits.all():
        raise SettingsError(
            f"--truth '{truth}': {int(hits.sum())} of {len(hits)} scored pairs are planted {planted_from} times or "
            "more, so a ranking cannot be judged"
        )
    found = int(hits.sum())
    by_repeats = {}
    for count in np.unique(repeats[hits]):
        alike = repeats == count
        others = ~(alike | hits)
        by_repeats[str(count)] = {"pairs": int(alike.sum()), "auc": auc(scores[alike], scores[others])}
    return {
        "planted_from": planted_from,
        "planted_pairs": found,
        "auc": auc(scores[hits], scores[~hits]),
        "by_repeats": by_repeats,
        "precision_at": {str(k): float(hits[:k].mean()) for k in sorted({found, 10, 50, 100}) if k <= len(hits)},
    }
