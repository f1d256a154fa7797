"""``memsieve audit select``: from scores to a keep-list, with a reason for everything that is not kept."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.audit.cutoff import Rule, best_of_content, contents_of, cutoff_of
from memsieve.filtering.audit.table import Array, Scores, default_signals, load_scores, pair_scores
from memsieve.filtering.data.keep_list import KEEP_SCHEMA, METADATA
from memsieve.filtering.files import write_whole
from memsieve.filtering.settings import SettingsError

__all__ = ["Rule", "Selection", "select_rows", "write_selection"]

_UID = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


@dataclass(slots=True)
class Selection:
    """A keep-list as a table of ``KEEP_SCHEMA``, and what was done in numbers."""

    table: pa.Table
    about: dict[str, Any]
    counts: Counter[str] = field(default_factory=Counter)
    """Rows by reason; ``kept`` among them."""
    cutoff: float | None = None


def select_rows(
    run: Path,
    rule: Rule,
    *,
    reference: Path | None = None,
    held_out: Path | None = None,
    partial: bool = False,
) -> Selection:
    """The keep-list of the audit in ``run``.

    With ``false_drop_rate`` A and a ``held_out`` audit (the same model on pairs it was not trained on), a pair is
    taken out where (1 + held-out pairs that score as high) / (1 + held-out pairs) <= A. Whatever was trained on scores
    higher than held-out pairs do, so the audit's own pairs are first moved and scaled until their median and upper
    quartile are the held-out pairs' (``filtering/evidence/null.py``; from 50 pairs on). Without such an audit, ordinary
    pairs are taken to be normally distributed with the median and MAD of the audit's own pairs, which is rough.

    Args:
        reference: the base model's audit, of the same pairs and, with ``held_out``, of the held-out pairs too.

    Raises:
        SettingsError: the rule or the audits cannot be used; the message says why.
    """
    rule.check()
    scores = load_scores(run, partial=partial)
    signals = rule.signals or default_signals(scores, reference)
    values, null = np.full(len(scores), np.nan), None
    if rule.by_score:
        if scores.about["deciding"]["model"] is None:
            raise SettingsError(f"the audit in '{run}' has no scores (--data-only): only --dedup can be used")
        others = [None if path is None else load_scores(path, partial=partial) for path in (reference, held_out)]
        values, null = pair_scores(scores, signals, reference=others[0], null=others[1])
    contents = contents_of(scores)
    best = best_of_content(values, contents)
    cutoff = cutoff_of(best, contents, null, rule) if rule.by_score else None
    reasons, details = _reasons(scores, best, cutoff, rule, "+".join(signals))
    table = _table(scores, best, reasons, details)
    audits = {"audit": run, "reference": reference, "held_out": held_out}
    about = {"format": 1, **{name: None if path is None else str(path) for name, path in audits.items()}}
    about |= _about(scores, rule, signals, cutoff)
    counts = Counter("kept" if reason is None else reason for reason in reasons)
    if rule.by_score:
        counts["ok without a score"] = int((np.isnan(best) & (np.array(table["status"].to_pylist()) == "ok")).sum())
    return Selection(table, about, counts, cutoff)


def _table(scores: Scores, best: Array, reasons: list[str | None], details: list[str | None]) -> pa.Table:
    """The keep-list's rows."""
    table = scores.table.select(["shard", "index", "key", "part", "uid", "sha256", "status"])
    for name, column in (
        ("score", pa.array(best, pa.float64(), from_pandas=True)),
        ("keep", pa.array([reason is None for reason in reasons], pa.bool_())),
        ("reason", pa.array(reasons, pa.string())),
        ("detail", pa.array(details, pa.string())),
    ):
        table = table.append_column(name, column)
    return table.cast(KEEP_SCHEMA)


def _about(scores: Scores, rule: Rule, signals: tuple[str, ...], cutoff: float | None) -> dict[str, Any]:
    """What the keep-list says of the data, the model and the rule that it was made of."""
    return {
        "model": scores.about["deciding"]["model"],
        "data": scores.about["config"]["data"],
        "rule": {
            "signals": list(signals) if rule.by_score else [],
            "drop_fraction": rule.drop_fraction,
            "max_score": rule.max_score,
            "false_drop_rate": rule.false_drop_rate,
            "dedup": rule.dedup,
        },
        "cutoff": cutoff,
    }


def _reasons(
    scores: Scores, best: Array, cutoff: float | None, rule: Rule, label: str
) -> tuple[list[str | None], list[str | None]]:
    columns = [scores.table[name].to_pylist() for name in ("status", "error", "shard", "key", rule.dedup or "sha256")]
    first: dict[str, str] = {}
    reasons: list[str | None] = []
    details: list[str | None] = []
    for score, status, error, shard, key, same in zip(best, *columns, strict=True):
        reason: str | None = None
        detail: str | None = None
        if status != "ok":
            reason, detail = status, error
        elif cutoff is not None and score > cutoff:
            reason, detail = "score", f"{label} {score:.6g} is above {cutoff:.6g}"
        elif rule.dedup is not None and same in first:
            reason, detail = "duplicate", f"the same {rule.dedup} as {first[same]}"
        elif rule.dedup is not None:
            first[same] = f"'{key}' in {shard}"
        reasons.append(reason)
        details.append(detail)
    return reasons, details


def write_selection(selection: Selection, out: Path) -> None:
    """Write a keep-list by the suffix of ``out``.

    ``.parquet``: all rows with reasons, what ``audit apply`` and ``data.keep_list`` read. ``.txt``: shard, index and
    key of the kept rows, tab-separated, with backslash escapes. ``.npy``: DataComp's sorted ``u8,u8`` array of the
    kept rows' 128-bit uids, as its resharder reads it.

    Raises:
        SettingsError: another suffix; or ``.npy`` and not every kept row has a uid of 32 hexadecimal digits.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".parquet":
        table = selection.table.replace_schema_metadata({METADATA: json.dumps(selection.about).encode()})
        temporary = out.with_name(f".{out.name}.tmp")
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(out)
        return
    kept = selection.table.filter(selection.table["keep"])
    if out.suffix == ".txt":
        rows = zip(*(kept[name].to_pylist() for name in ("shard", "index", "key")), strict=True)
        lines = (f"{shard.translate(_ESCAPES)}\t{index}\t{key.translate(_ESCAPES)}\n" for shard, index, key in rows)
        write_whole(out, "".join(lines))
    elif out.suffix == ".npy":
        uids = kept["uid"].to_pylist()
        without = sum(uid is None or not _UID.fullmatch(uid) for uid in uids)
        if without:
            raise SettingsError(
                f"--out '{out}': {without} of {len(uids)} kept samples have no 'uid' of 32 hexadecimal digits in their "
                "json; write .parquet or .txt instead"
            )
        halves = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids]
        temporary = out.with_name(f".{out.name}.tmp")
        with temporary.open("wb") as file:
            np.save(file, np.sort(np.array(halves, dtype=np.dtype("u8,u8"))))
        temporary.replace(out)
    else:
        raise SettingsError(f"--out '{out}' must end in .parquet, .txt or .npy")
