"""Which files of a stream show one picture, found as a user would find it: described, a threshold measured, grouped."""

from __future__ import annotations

import fcntl
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from benchmarks.common import write_numbers
from benchmarks.copying.parts import add_part
from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.group_check import CheckedDescriptor, check_descriptors
from memsieve.filtering.audit.groups import Alike, group_audit
from memsieve.filtering.audit.query import AuditQuery
from memsieve.filtering.audit.score import score_shards
from memsieve.filtering.data.group_table import group_table
from memsieve.filtering.data.rows import content_id

__all__ = ["DESCRIBED", "PART", "find_groups", "table_of"]

DESCRIBED: Final = ("sscd", "sscd_distilled")
"""What describes the pictures; the check takes the one that finds more edits."""
PART: Final = "dedup_found"
"""Of the stream the first row of each group: what deduplication by the same groups leaves."""
FALSE_JOINS: Final = 0.01


def table_of(data: Path) -> Path:
    """The groups of a stream's folder, as ``data.groups`` takes them."""
    return data / "found" / "groups.parquet"


def find_groups(data: Path, shards: int, described: Sequence[str] = DESCRIBED) -> dict[str, Any]:
    """Group the stream in ``data`` and write ``PART``, once; several processes may ask for it at once.

    Returns:
        ``descriptor``, ``threshold`` and what the check says of it; ``together``, by planted case the mean share of a
        pair's files that are in one group; ``ordinary_joined``, ordinary and rare pairs whose file is in a group with
        another pair's, out of ``ordinary``; and ``rows`` of ``PART``.

    Raises:
        SettingsError: a descriptor is not installed; the message says how it is.
    """
    file = data / "found" / "found.json"
    with (data.parent / f"{data.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.is_file() and (known := json.loads(file.read_text()))["described"] == list(described):
            return dict(known)
        file.unlink(missing_ok=True)
        checked = _grouped(data, described)
        group_table.cache_clear()
        joined = group_table(str(table_of(data)))
        rows = add_part(data, PART, lambda row: joined.get(content_id(row.png), content_id(row.png)), shards)
        found = {
            "described": list(described), "descriptor": checked.by, "threshold": checked.threshold,
            "check": {"recall": checked.recall, "mean_recall": checked.mean_recall, "joined": checked.joined},
            "false_joins": FALSE_JOINS, "rows": rows, **_truth_of(data, joined),
        }  # fmt: skip
        write_numbers(file, found)
        return found


def _grouped(data: Path, described: Sequence[str]) -> CheckedDescriptor:
    """Describe, choose and group."""
    audit = data / "found" / "audit"
    score_shards(
        AuditConfig.model_validate(
            {"data": {"path": str(data / "stream")}, "model": None, "describe": list(described)}
        ),
        audit,
    )
    with AuditQuery() as query:
        best = check_descriptors(query, query.add("audit", audit), false_joins=FALSE_JOINS)[0]
    group_audit(audit, table_of(data), Alike(best.by, best.threshold))
    return best


def _truth_of(data: Path, joined: dict[str, str]) -> dict[str, Any]:
    """What the groups are by the truth."""
    rows = [row for row in pq.read_table(data / "truth.parquet").to_pylist() if row["part"] == "stream"]
    files: dict[str, Counter[str]] = defaultdict(Counter)
    pairs: dict[str, set[str]] = defaultdict(set)
    for content, pair in {(row["group"], row["pair"]) for row in rows}:
        group = joined.get(content, content)
        files[pair][group] += 1
        pairs[group].add(pair)
    case = {row["pair"]: row["case"] for row in rows}
    together: dict[str, list[float]] = defaultdict(list)
    for pair, groups in files.items():
        if case[pair] not in ("ordinary", "rare"):
            together[case[pair]].append(max(groups.values()) / groups.total())
    singles = [pair for pair in files if case[pair] in ("ordinary", "rare")]
    falsely = sum(len(pairs[group]) > 1 for pair in singles for group in files[pair])
    return {
        "together": {name: round(sum(shares) / len(shares), 4) for name, shares in sorted(together.items())},
        "ordinary_joined": falsely,
        "ordinary": len(singles),
    }
