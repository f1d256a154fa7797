"""``groups.parquet`` and ``evidence.parquet``: a share from every rank, joined by Arrow at the end of a run.

Of millions of groups, a Python object each would not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from memsieve.filtering.filter import MemorizationFilter
from memsieve.train.seen import GroupCounts, read_seen

__all__ = ["join_shares", "write_evidence", "write_share"]

_PART: Final = 100_000  # names that are Python strings at a time
_SAMPLE: Final = ("key", "shard", "caption")


def write_share(run: Path, rank: int, pair_filter: MemorizationFilter, skips: GroupCounts) -> None:
    """This rank's groups, and the rows of each group that its sieve took out."""
    _write(_group_columns(pair_filter), _share(run, "groups", rank))
    _write(skips.table("skipped"), _share(run, "skips", rank))


def join_shares(run: Path, ranks: int, left: Sequence[int] = ()) -> None:
    """``groups.parquet`` from the shares of all ranks, which are removed, and the samples that they have seen, and
    those have that are no more (``left``)."""
    kinds = ("groups", "skips")
    shares = {kind: [_share(run, kind, rank) for rank in range(ranks)] for kind in kinds}
    table, skips = (pa.concat_tables([pq.read_table(path) for path in shares[kind]]) for kind in kinds)
    skips = skips.group_by("group").aggregate([("skipped", "sum")]).rename_columns(["group", "skipped"])
    seen = read_seen(run / "seen" / f"rank{rank}" for rank in (*range(ranks), *left))
    names = ["group", *_SAMPLE, *(name for name in table.column_names if name != "group"), "skipped"]
    for other in (seen, skips):
        table = table.join(other, "group", join_type="left outer")
    table = table.sort_by([("first_step", "ascending"), ("group", "ascending")]).select(names)
    for name in [*_SAMPLE, "skipped"]:
        column = pc.fill_null(table[name], 0 if name == "skipped" else "")
        table = table.set_column(names.index(name), name, column)
    _write(table, run / "groups.parquet")
    for path in [*shares["groups"], *shares["skips"]]:
        path.unlink()


def write_evidence(run: Path, rows: Sequence[Sequence[Any]]) -> None:
    """``evidence.parquet`` from (step, group, evidence, threshold) rows."""
    steps, names, values, bars = zip(*rows, strict=True) if rows else ((), (), (), ())
    columns = {
        "step": pa.array(steps, pa.int64()),
        "group": pa.array(names, pa.string()),
        "evidence": pa.array(values, pa.float32()),
        "threshold": pa.array(bars, pa.float32()),
    }
    _write(pa.table(columns), run / "evidence.parquet")


def _share(run: Path, kind: str, rank: int) -> Path:
    return run / f"{kind}-rank{rank}.parquet"


def _group_columns(pair_filter: MemorizationFilter) -> pa.Table:
    """This rank's share of the history."""
    groups = pair_filter.groups
    names, parts = iter(groups.names), range(0, len(groups), _PART)
    table: dict[str, Any] = {
        "group": pa.chunked_array([pa.array(list(islice(names, _PART)), pa.string()) for _ in parts], pa.string())
    }
    table |= {
        name: groups[name]
        for name in ("exposures", "trained", "scored", "dropped", "condemned_step", "first_step", "last_step")
    }
    table |= {name: groups[name].astype(np.float32) for name in ("evidence", "evidence_max", "p_value")}
    table["magnitude_mean"] = (groups["magnitude_sum"] / np.maximum(groups["scored"], 1)).astype(np.float32)
    if "loss" in pair_filter.calibrator.columns:
        table["loss_level"] = pa.array(groups.level().astype(np.float32), mask=groups["scored"] == 0)
    return pa.table(table)


def _write(table: pa.Table, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    temporary.rename(path)
