"""Reads what a training run left in its folder; whatever is missing or broken becomes a note, never a crash."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from memsieve.filtering.folder_kind import RUN_MARKS, is_training_run, what_it_is

__all__ = ["GroupRow", "RunData", "accounting", "asked_of_all", "deciding_signal", "load_run", "removed_and_near"]

DROPPING = ("drop", "cap", "reweight", "caption", "retire")
MAX_KEYS = 2000
LEDGER = {
    "step": pa.int64(), "key": pa.string(), "shard": pa.string(), "group": pa.string(), "action": pa.string(),
    "reason": pa.string(), "timestep": pa.int32(), "weight": pa.float32(), "magnitude": pa.float32(),
    "p_value": pa.float32(), "evidence": pa.float32(), "threshold": pa.float32(), "error": pa.string(),
}  # fmt: skip
GROUPS = {
    "group": pa.string(), "key": pa.string(), "shard": pa.string(), "caption": pa.string(), "exposures": pa.int64(),
    "trained": pa.int64(), "scored": pa.int64(), "evidence": pa.float32(), "evidence_max": pa.float32(),
    "p_value": pa.float32(), "condemned_step": pa.int64(), "dropped": pa.int64(), "magnitude_mean": pa.float32(),
}  # fmt: skip
EVIDENCE = {"step": pa.int64(), "group": pa.string(), "evidence": pa.float32(), "threshold": pa.float32()}
SECRET = re.compile(r"(?im)^(\s*(?:-\s+)?['\"]?(?:\w*_)?(?:token|secret|password|api_?key)['\"]?\s*:[ \t]*)(\S.*)$")


@dataclass(slots=True)
class GroupRow:
    """One group in a table of the page. Numbers that the run did not record are None."""

    group: str
    key: str = ""
    shard: str = ""
    caption: str | None = None
    exposures: int | None = None
    trained: int | None = None
    scored: int | None = None
    evidence: float | None = None
    evidence_max: float | None = None
    p_value: float | None = None
    condemned_step: int | None = None
    dropped: int | None = None
    magnitude_mean: float | None = None
    action: str = ""
    reason: str = ""
    first_drop: int | None = None
    drop_evidence: float | None = None
    drop_p: float | None = None
    threshold: float | None = None
    keys: list[str] = field(default_factory=list)

    @property
    def compared(self) -> bool:
        """Whether it was ever compared with the bar, so that it has evidence."""
        return self.evidence_max is not None and math.isfinite(self.evidence_max)


@dataclass(slots=True)
class RunData:
    """All of a run that the page shows; tables have every known column, perhaps with nulls or no rows."""

    path: Path
    config: str | None
    metrics: dict[str, tuple[list[float], list[float]]]
    summary: dict[str, Any] | None
    ledger: pa.Table
    groups: pa.Table
    evidence: pa.Table
    samples: list[Path]
    notes: list[str]
    chances: dict[str, dict[str, float]] = field(default_factory=dict)
    """How often each pair came back in its newest drawings, where the model was asked."""


def load_run(run: Path) -> RunData:
    """Read the folder ``run``.

    Raises:
        ValueError: it is no folder, or no training run; the message says what it is.
    """
    if not run.is_dir():
        raise ValueError(f"'{run}' is not a folder; name the output folder of a training run")
    if not is_training_run(run):
        begun = "it has a config.yaml and no record of a step" if (run / "config.yaml").is_file() else None
        known = what_it_is(run) or begun or f"it holds none of {', '.join(RUN_MARKS)} and no summary.json of a run"
        raise ValueError(f"'{run}' is not a training run: {known}")
    notes: list[str] = []
    config = _text(run / "config.yaml", notes)
    return RunData(
        path=run,
        config=None if config is None else SECRET.sub(r"\1(hidden)", config),
        metrics=_metrics(run / "metrics.jsonl", notes),
        summary=_summary(run / "summary.json", notes),
        ledger=_table(sorted((run / "ledger").glob("*.parquet")), LEDGER, "ledger", notes),
        groups=_table([run / "groups.parquet"], GROUPS, "groups.parquet", notes),
        evidence=_table([run / "evidence.parquet"], EVIDENCE, "evidence.parquet", notes),
        samples=sorted((run / "samples").glob("step-*.png")),
        notes=notes,
        chances=_chances(run / "recall.json", notes),
    )


def _chances(file: Path, notes: list[str]) -> dict[str, dict[str, float]]:
    if not file.is_file():
        return {}
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return {
            str(group): {"hits": int(one["hits"]), "drawings": int(one["drawings"]), "low": float(one["low"]),
                         "high": float(one["high"])}
            for group, one in told.items()
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        notes.append(f"recall.json could not be read ({error})")
        return {}


def accounting(summary: dict[str, Any] | None) -> dict[str, Any] | None:
    """``read`` beside its ``parts`` (name, kind, count), their sum, and whether the two agree; None where unknown."""
    if not summary or not isinstance(summary.get("read"), int):
        return None
    parts: list[tuple[str, str, int]] = [("trained", "trained", _count(summary.get("trained")))]
    for kind in ("dropped", "failed", "not_kept"):
        value = summary.get(kind, {} if kind == "not_kept" else None)
        counts = value if isinstance(value, dict) else {"": value}
        label = kind.replace("_", " ")
        parts += [(f"{label}: {name}" if name else label, kind, _count(number)) for name, number in counts.items()]
    parts += [(name.replace("_", " "), name, _count(summary.get(name))) for name in ("held_out", "remainder")]
    total = sum(count for *_, count in parts)
    return {"read": summary["read"], "parts": parts, "total": total, "ok": total == summary["read"]}


def asked_of_all(run: RunData) -> bool:
    """Whether the run asked its model about every pair (``filter.rule: recall``)."""
    return "mem/pairs" in run.metrics


def deciding_signal(config: str | None) -> str | None:
    """The signals that the run's rule decided by, joined by +; None where its config does not say."""
    try:
        values: Any = yaml.safe_load(config or "")
        names = values["filter"]["signals"]
    except (yaml.YAMLError, TypeError, KeyError, RecursionError):
        return None
    return "+".join(str(name) for name in names) if isinstance(names, list) and names else None


def removed_and_near(run: RunData, most: int, near: int) -> tuple[list[GroupRow], list[GroupRow], int]:
    """The groups that were condemned or dropped (at most ``most``, strongest evidence first), the ``near`` groups that
    came closest without, and how many were removed in all. Of a run that asked about every pair, all others."""
    ledger = run.ledger.filter(pc.is_in(run.ledger["action"], pa.array(DROPPING))).sort_by("step")
    ledger = ledger.filter(pc.is_valid(ledger["group"]))
    first = ("action", "reason", "step", "evidence", "p_value", "threshold", "key", "shard")
    wanted: list[tuple[str, str]] = [*((name, "first") for name in first), ("key", "distinct"), ("step", "count")]
    verdicts = {row["group"]: row for row in ledger.group_by("group", use_threads=False).aggregate(wanted).to_pylist()}
    table = run.groups
    if not len(table):
        rows = [_with_verdict(GroupRow(group), verdict) for group, verdict in verdicts.items()]
        rows.sort(key=lambda row: -(row.drop_evidence or 0))
        return rows[:most], [], len(rows)
    condemned = pc.greater_equal(pc.fill_null(table["condemned_step"], -1), 0)
    removed = pc.or_(condemned, pc.greater(pc.fill_null(table["dropped"], 0), 0))
    removed = pc.or_(removed, pc.is_in(table["group"], pa.array(verdicts, pa.string())))
    order = [("evidence_max", "descending"), ("exposures", "descending")]
    gone, kept = table.filter(removed).sort_by(order), table.filter(pc.invert(removed)).sort_by(order)
    rows = [_with_verdict(_group(row), verdicts.get(row["group"])) for row in gone.slice(0, most).to_pylist()]
    if asked_of_all(run):
        near = most
    else:
        kept = kept.filter(pc.and_kleene(pc.is_finite(kept["evidence_max"]), pc.greater(kept["evidence_max"], 0)))
    return rows, [_group(row) for row in kept.slice(0, near).to_pylist()], len(gone)


def _group(row: dict[str, Any]) -> GroupRow:
    values = {name: _finite(row[name]) for name in GROUPS}
    values["key"], values["shard"] = values["key"] or "", values["shard"] or ""
    if values["condemned_step"] is not None and values["condemned_step"] < 0:
        values["condemned_step"] = None
    return GroupRow(**values, keys=_listable([values["key"]]))


def _with_verdict(row: GroupRow, verdict: dict[str, Any] | None) -> GroupRow:
    if verdict is None:
        return row
    row.action, row.reason = verdict["action_first"] or "", verdict["reason_first"] or ""
    row.first_drop, row.threshold = verdict["step_first"], _finite(verdict["threshold_first"])
    row.drop_evidence, row.drop_p = _finite(verdict["evidence_first"]), _finite(verdict["p_value_first"])
    row.key, row.shard = row.key or verdict["key_first"] or "", row.shard or verdict["shard_first"] or ""
    row.dropped = row.dropped or verdict["step_count"]
    row.keys = _listable([row.key, *verdict["key_distinct"]])
    return row


def _listable(keys: Sequence[str | None]) -> list[str]:
    """Each key once; none that a list of one key a line cannot hold."""
    return [key for key in dict.fromkeys(keys) if key and not re.search(r"[\r\n]", key)][:MAX_KEYS]


def _count(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(file: Path, notes: list[str]) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        notes.append(f"{file.name} is missing")
    except OSError as error:
        notes.append(f"{file.name} could not be read: {error}")
    return None


def _summary(file: Path, notes: list[str]) -> dict[str, Any] | None:
    text = _text(file, notes)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        notes.append(f"{file.name} is not valid JSON: {error}")
        return None
    if not isinstance(value, dict):
        notes.append(f"{file.name} holds no JSON object")
        return None
    return {key: _finite(item) for key, item in value.items()}


def _metrics(file: Path, notes: list[str]) -> dict[str, tuple[list[float], list[float]]]:
    """Per name its steps and values; a step written twice (a resumed run) keeps its last value."""
    text = _text(file, notes)
    found: dict[str, dict[float, float]] = {}
    broken = 0
    for line in (text or "").splitlines():
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError:
            broken += 1
            continue
        step = row.get("step") if isinstance(row, dict) else None
        if not isinstance(step, (int, float)):
            broken += bool(row)
            continue
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                found.setdefault(name, {})[step] = value
    if broken:
        notes.append(f"{file.name}: {broken} line(s) could not be read and were left out")
    return {name: (sorted(values), [values[step] for step in sorted(values)]) for name, values in found.items()}


def _table(files: Sequence[Path], columns: dict[str, pa.DataType], name: str, notes: list[str]) -> pa.Table:
    schema = pa.schema(list(columns.items()))
    tables = []
    for file in files:
        if not file.is_file():
            continue
        try:
            present = [column for column in columns if column in pq.read_schema(file).names]
            table = pq.read_table(file, columns=present)
            for column in columns:
                if column not in present:
                    table = table.append_column(column, pa.nulls(len(table), columns[column]))
            tables.append(table.select(list(columns)).cast(schema))
        except (pa.ArrowException, OSError) as error:
            notes.append(f"{file.name} could not be read: {str(error).splitlines()[0]}")
    if not tables and not any(file.is_file() for file in files):
        notes.append(f"{name} is missing")
    return pa.concat_tables(tables) if tables else schema.empty_table()
