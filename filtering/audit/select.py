"""``memsieve audit select``: from scores to a keep-list, with a reason for everything that is not kept."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.audit.table import Array, Scores, default_signals, load_scores, pair_scores
from memsieve.filtering.conformal import critical_value, smallest_reference
from memsieve.filtering.data.keep_list import KEEP_SCHEMA, METADATA
from memsieve.filtering.evidence.null import ordinary_cutoff
from memsieve.filtering.files import write_whole
from memsieve.filtering.settings import SettingsError
from memsieve.filtering.statistics import median_and_spread

__all__ = ["Rule", "Selection", "select_rows", "write_selection"]

_UID = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


@dataclass(frozen=True, slots=True)
class Rule:
    """What is taken out, besides samples that cannot be used. Scores are compared per pair: an image's highest."""

    signals: tuple[str, ...] = ()
    """See ``pair_scores``; empty takes magnitude, or reference_ratio where there is a reference."""
    drop_fraction: float | None = None
    """Share of pairs (distinct images), those with the highest scores, with all their copies."""
    max_score: float | None = None
    """Pairs that score higher."""
    false_drop_rate: float | None = None
    """Pairs that score higher than all but this share of ordinary ones."""
    dedup: Literal["sha256", "phash"] | None = None
    """Keep the first of several samples with the same image bytes, or the same perceptual hash."""

    def check(self) -> None:
        """Refuse a rule that takes nothing out, or contradicts itself.

        Raises:
            SettingsError: names the options.
        """
        cuts = [self.drop_fraction, self.max_score, self.false_drop_rate]
        if sum(cut is not None for cut in cuts) > 1:
            raise SettingsError("give one of --drop-fraction, --max-score and --false-drop-rate")
        if all(cut is None for cut in cuts) and self.dedup is None:
            raise SettingsError("give --drop-fraction, --max-score, --false-drop-rate or --dedup")
        for name, value in (("--drop-fraction", self.drop_fraction), ("--false-drop-rate", self.false_drop_rate)):
            if value is not None and not 0.0 < value < 1.0:
                raise SettingsError(f"{name} = {value} must lie between 0 and 1")


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
    scored = rule.drop_fraction is not None or rule.max_score is not None or rule.false_drop_rate is not None
    signals = rule.signals or default_signals(scores, reference)
    values = np.full(len(scores), np.nan)
    null: Array | None = None
    if scored:
        if scores.about["deciding"]["model"] is None:
            raise SettingsError(f"the audit in '{run}' has no scores (--data-only): only --dedup can be used")
        values, null = pair_scores(
            scores,
            signals,
            reference=load_scores(reference, partial=partial) if reference is not None else None,
            null=load_scores(held_out, partial=partial) if held_out is not None else None,
        )
    groups = _groups(scores)
    best = _best(values, groups)
    cutoff = _cutoff(best, groups, null, rule) if scored else None
    reasons, details = _reasons(scores, best, cutoff, rule, "+".join(signals))
    table = scores.table.select(["shard", "index", "key", "part", "uid", "sha256", "status"])
    for name, column in (
        ("score", pa.array(best, pa.float64(), from_pandas=True)),
        ("keep", pa.array([reason is None for reason in reasons], pa.bool_())),
        ("reason", pa.array(reasons, pa.string())),
        ("detail", pa.array(details, pa.string())),
    ):
        table = table.append_column(name, column)
    about = {
        "format": 1,
        "audit": str(run),
        "reference": None if reference is None else str(reference),
        "held_out": None if held_out is None else str(held_out),
        "model": scores.about["deciding"]["model"],
        "data": scores.about["config"]["data"],
        "rule": {
            "signals": list(signals) if scored else [],
            "drop_fraction": rule.drop_fraction,
            "max_score": rule.max_score,
            "false_drop_rate": rule.false_drop_rate,
            "dedup": rule.dedup,
        },
        "cutoff": cutoff,
    }
    counts = Counter("kept" if reason is None else reason for reason in reasons)
    if scored:
        counts["ok without a score"] = int((np.isnan(best) & (np.array(table["status"].to_pylist()) == "ok")).sum())
    return Selection(table.cast(KEEP_SCHEMA), about, counts, cutoff)


def _groups(scores: Scores) -> Array:
    """A number per image content; rows without a readable image are -1."""
    codes = scores.table["sha256"].combine_chunks().dictionary_encode().indices
    return np.asarray(codes.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _best(values: Array, groups: Array) -> Array:
    """Every row's value raised to the highest of its group: a pair stands or falls as one."""
    best = np.full(int(groups.max(initial=-1)) + 1, -np.inf)
    known = (groups >= 0) & ~np.isnan(values)
    np.maximum.at(best, groups[known], values[known])
    spread = np.where(groups >= 0, best[groups], -np.inf) if len(best) else np.full(len(values), -np.inf)
    return np.where(np.isneginf(spread), np.nan, spread)


def _cutoff(best: Array, groups: Array, null: Array | None, rule: Rule) -> float:
    """Pairs that score higher than this are taken out."""
    if rule.max_score is not None:
        return rule.max_score
    pairs = {int(g): float(b) for g, b in zip(groups, best, strict=True) if g >= 0 and not np.isnan(b)}
    ordered = np.sort(np.array(list(pairs.values())))
    if not len(ordered):
        raise SettingsError("no sample of the audit has a score, so none can be taken out by it")
    if rule.drop_fraction is not None:
        count = round(rule.drop_fraction * len(ordered))
        # Equal scores fall together, on the side of keeping.
        return float(ordered[-count - 1]) if count < len(ordered) else -np.inf
    assert rule.false_drop_rate is not None
    rate = rule.false_drop_rate
    if null is None:
        middle, spread = median_and_spread(ordered)
        return float(middle + NormalDist().inv_cdf(1.0 - rate) * spread)
    held_out = np.sort(null[~np.isnan(null)])[::-1]
    if len(held_out) < smallest_reference(rate):
        raise SettingsError(
            f"--false-drop-rate {rate} needs at least {smallest_reference(rate)} held-out pairs with a score, and "
            f"there are {len(held_out)}"
        )
    return ordinary_cutoff(ordered, held_out, critical_value(held_out, rate))


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
