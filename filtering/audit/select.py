"""``memsieve audit select``: from scores to a keep-list, with a reason for everything that is not kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from memsieve.filtering.audit.cutoff import Rule, cutoff_of
from memsieve.filtering.audit.pair_scores import default_signals, score_pairs
from memsieve.filtering.audit.query import BATCH, AuditQuery, Rows
from memsieve.filtering.audit.table import Array
from memsieve.filtering.data.keep_list import KEEP_SCHEMA
from memsieve.filtering.settings import SettingsError

__all__ = ["Rule", "Selection", "image_scores", "select_rows"]

_OWN: Final = ["shard", "index", "key", "part", "uid", "sha256", "status", "error"]
"""What a keep-list takes over from the audit's rows."""


@dataclass(slots=True)
class Selection:
    """A keep-list that is decided on, and what was done in numbers. A context manager: it holds temporary files.

    Attributes:
        about: what the keep-list says of the data, the model and the rule that it was made of.
        counts: rows by reason; ``kept`` among them.
        cutoff: see ``cutoff_of``.
    """

    about: dict[str, Any]
    counts: Counter[str]
    cutoff: float | None
    query: AuditQuery
    rows: Rows
    label: str

    def __enter__(self) -> Selection:
        return self

    def __exit__(self, *_: object) -> None:
        self.query.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, by ``KEEP_SCHEMA``, in the audit's order."""
        verdicts = _Following(self.query.batches("SELECT score, reason, same_as FROM verdicts ORDER BY row"))
        for part in self.rows.parts:
            for own in pq.ParquetFile(part.file).iter_batches(BATCH, columns=_OWN):
                yield self._rows(own, verdicts.take(len(own)))

    @property
    def table(self) -> pa.Table:
        """All rows in memory, for audits that are known to be small."""
        return pa.Table.from_batches(self.batches(), schema=KEEP_SCHEMA)

    def _rows(self, own: pa.RecordBatch, verdicts: pa.Table) -> pa.RecordBatch:
        reason = verdicts["reason"].combine_chunks()
        detail = pc.coalesce(verdicts["same_as"].combine_chunks(), self._by_score(verdicts), own.column("error"))
        columns = {name: own.column(name) for name in _OWN if name != "error"}
        columns |= {"score": verdicts["score"].combine_chunks(), "keep": reason.is_null(), "reason": reason}
        columns["detail"] = detail
        return pa.record_batch([columns[field.name].cast(field.type) for field in KEEP_SCHEMA], schema=KEEP_SCHEMA)

    def _by_score(self, verdicts: pa.Table) -> pa.Array:
        """In words, of rows that were taken out for their score."""
        said: list[str | None] = [None] * len(verdicts)
        away = pc.fill_null(pc.equal(verdicts["reason"], "score"), False)
        for i in np.flatnonzero(away.to_numpy()):
            said[i] = f"{self.label} {verdicts['score'][int(i)].as_py():.6g} is above {self.cutoff:.6g}"
        return pa.array(said, pa.string())


def select_rows(
    run: Path,
    rule: Rule,
    *,
    reference: Path | None = None,
    held_out: Path | None = None,
    partial: bool = False,
) -> Selection:
    """The keep-list of the audit in ``run``, decided on and not yet written; close it, or use it in a ``with``.

    With ``false_drop_rate`` A and a ``held_out`` audit (the same model on pairs it was not trained on), an image is
    taken out where (1 + held-out images that score as high) / (1 + held-out images) <= A. An image's score is the mean
    over its rows on both sides: the highest of twenty captions would lie above the only one of a held-out image where
    nothing is memorised. Whatever was trained on scores higher than held-out pairs do, so the audit's own images are
    first moved and scaled until their median and upper quartile are the held-out ones' (``filtering/evidence/null.py``;
    from 50 on). Without such an audit, ordinary images are taken to be normally distributed with the median and MAD of
    the audit's own, which is rough.

    Args:
        reference: the base model's audit, of the same pairs and, with ``held_out``, of the held-out pairs too.

    Raises:
        SettingsError: the rule or the audits cannot be used; the message says why.
    """
    rule.check()
    query = AuditQuery()
    try:
        rows = query.add("audit", run, partial=partial)
        signals = rule.signals or default_signals(rows, reference)
        if rule.by_score and rows.about["deciding"]["model"] is None:
            raise SettingsError(f"the audit in '{run}' has no scores (--data-only): only --dedup can be used")
        cutoff = _cutoff(query, rows, rule, signals, reference, held_out, partial) if rule.by_score else None
        _decide(query, rule, cutoff)
        audits = {"audit": run, "reference": reference, "held_out": held_out}
        about = {"format": 1, **{name: None if path is None else str(path) for name, path in audits.items()}}
        about |= _about(rows, rule, signals, cutoff)
        return Selection(about, _counted(query, rule), cutoff, query, rows, "+".join(signals))
    except BaseException:
        query.close()
        raise


def _cutoff(
    query: AuditQuery,
    rows: Rows,
    rule: Rule,
    signals: tuple[str, ...],
    reference: Path | None,
    held_out: Path | None,
    partial: bool,
) -> float:
    """Score the images of all audits, as tables ``NAME_images``, and find the rule's cut-off."""
    base = None if reference is None else query.add("base", reference, partial=partial)
    null = None if held_out is None else query.add("held_out", held_out, partial=partial)
    score_pairs(query, rows, signals, reference=base, null=null)
    scores = image_scores(query, rows)
    return cutoff_of(scores, None if null is None else image_scores(query, null), rule)


def image_scores(query: AuditQuery, rows: Rows) -> Array:
    """Make the table ``NAME_images`` (``content``, ``score``, ``copies``, ``first`` row) and return the scores that are
    known, float64 [N], in no order."""
    query.run(
        f"CREATE TABLE {rows.name}_images AS SELECT a.content, avg(s.score) AS score, count(*) AS copies, "
        f"min(a.row) AS first FROM {rows.name} a LEFT JOIN {rows.name}_scores s ON s.row = a.row "
        "WHERE a.content IS NOT NULL GROUP BY a.content"
    )
    known = query.numbers(f"SELECT score FROM {rows.name}_images WHERE score IS NOT NULL")["score"]
    return np.asarray(known, dtype=np.float64)


def _decide(query: AuditQuery, rule: Rule, cutoff: float | None) -> None:
    """Make the table ``verdicts``: ``row``, ``score``, ``reason`` (null where kept), ``same_as`` (words, of a
    duplicate)."""
    images = "audit_images" if cutoff is not None else "(SELECT NULL AS content, NULL AS score WHERE false)"
    above = f"i.score > CAST('{cutoff!r}' AS DOUBLE)" if cutoff is not None else "false"
    same = {"sha256": "a.content", "phash": "CAST(coalesce(a.look, a.row) AS HUGEINT)"}.get(rule.dedup or "", "NULL")
    # A look that says nothing is nobody's: its row number stands for it, in a column of its own kind.
    kind = "CASE WHEN a.look IS NULL THEN 1 ELSE 0 END" if rule.dedup == "phash" else "0"
    query.run(
        "CREATE TABLE usable AS SELECT a.row, i.score, a.status, "
        f"CASE WHEN a.status <> 'ok' THEN a.status WHEN {above} THEN 'score' END AS reason, "
        f"{same} AS same, {kind} AS kind FROM audit a LEFT JOIN {images} i ON i.content = a.content"
    )
    query.run(
        "CREATE TABLE firsts AS SELECT same, kind, min(row) AS first, count(*) AS copies FROM usable "
        "WHERE reason IS NULL AND same IS NOT NULL GROUP BY same, kind HAVING count(*) > 1"
    )
    query.run(
        f"CREATE TABLE shown AS SELECT row, 'the same {rule.dedup} as ''' || key || ''' in ' || shard AS said "
        "FROM audit SEMI JOIN firsts ON firsts.first = audit.row"
    )
    query.run(
        "CREATE TABLE verdicts AS SELECT u.row, u.score, u.status, CASE WHEN u.reason IS NULL AND f.first < u.row "
        "THEN 'duplicate' ELSE u.reason END AS reason, CASE WHEN u.reason IS NULL AND f.first < u.row THEN s.said END "
        "AS same_as FROM usable u LEFT JOIN firsts f ON u.reason IS NULL AND f.same = u.same AND f.kind = u.kind "
        "LEFT JOIN shown s ON s.row = f.first"
    )


def _counted(query: AuditQuery, rule: Rule) -> Counter[str]:
    counts = Counter({
        str(reason): int(number)
        for reason, number in query.rows("SELECT coalesce(reason, 'kept'), count(*) FROM verdicts GROUP BY ALL")
    })  # fmt: skip
    if rule.by_score:
        without = "SELECT count(*) FROM verdicts WHERE status = 'ok' AND score IS NULL"
        counts["ok without a score"] = query.number(without)
    return counts


def _about(rows: Rows, rule: Rule, signals: tuple[str, ...], cutoff: float | None) -> dict[str, Any]:
    """What the keep-list says of the data, the model and the rule that it was made of."""
    return {
        "model": rows.about["deciding"]["model"],
        "data": rows.about["config"]["data"],
        "rule": {
            "signals": list(signals) if rule.by_score else [],
            "drop_fraction": rule.drop_fraction,
            "max_score": rule.max_score,
            "false_drop_rate": rule.false_drop_rate,
            "dedup": rule.dedup,
        },
        "cutoff": cutoff,
    }


class _Following:
    """Rows of a stream of batches, so many at a time as another stream has."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._left: pa.Table | None = None

    def take(self, count: int) -> pa.Table:
        """The next ``count`` rows."""
        parts: list[pa.Table] = []
        wanted = count
        while wanted or not parts:
            if self._left is None or not len(self._left):
                self._left = pa.Table.from_batches([next(self._batches)])
            parts.append(self._left.slice(0, wanted))
            self._left = self._left.slice(wanted)
            wanted -= len(parts[-1])
        return pa.concat_tables(parts)
