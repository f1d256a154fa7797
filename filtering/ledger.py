"""The Parquet ledger: one row for every verdict that is not keep, flushed so that a resume can cut it exactly."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.signals import SIGNALS
from memsieve.filtering.types import Verdict

__all__ = ["LEDGER_SCHEMA", "Ledger", "read_ledger"]

LEDGER_SCHEMA: Final = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int32()),
        ("rank", pa.int16()),
        ("key", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("group", pa.string()),
        ("stream", pa.int32()),
        ("offset", pa.int64()),
        ("action", pa.string()),
        ("reason", pa.string()),
        ("timestep", pa.int32()),
        ("weight", pa.float32()),
        *[(name, pa.float32()) for name in SIGNALS],
        ("recall", pa.float32()),
        ("score", pa.float32()),
        ("p_value", pa.float32()),
        ("evidence", pa.float32()),
        ("threshold", pa.float32()),
        ("error", pa.string()),
    ]
)
_PART: Final = re.compile(r"^rank(\d+)-(\d+)-(\d+)\.parquet$")


class Ledger:
    """Appends verdicts of one rank to ``folder/rankR-FIRST-LAST.parquet``, a part at each flush.

    Args:
        folder: created where missing.
        rank: this process's rank, part of the file name.
        resume_step: rows written after this step belong to work that is done again; their parts are removed.
        ranks: how many there are now, where that is known: parts of those that are no more are the first rank's to
            remove.
    """

    def __init__(self, folder: Path, rank: int = 0, resume_step: int | None = None, ranks: int | None = None) -> None:
        self.folder = folder
        self.rank = rank
        self._rows: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        folder.mkdir(parents=True, exist_ok=True)
        for part in sorted(folder.iterdir()):
            match = _PART.match(part.name)
            if match is None or int(match[2]) <= (resume_step if resume_step is not None else -1):
                continue
            if int(match[1]) == rank or (rank == 0 and ranks is not None and int(match[1]) >= ranks):
                part.unlink()

    def add(self, step: int, verdicts: list[Verdict]) -> None:
        """Note the verdicts of one step."""
        for verdict in verdicts:
            self.counts[verdict.action] += 1
            visit = verdict.visit
            row: dict[str, Any] = {name: _null(verdict.signals.get(name)) for name in (*SIGNALS, "recall")}
            row |= {
                "step": step,
                "rank": self.rank,
                "epoch": visit.epoch,
                "key": visit.key,
                "shard": visit.shard,
                "index": visit.index,
                "group": visit.group,
                "stream": visit.stream,
                "offset": visit.offset,
                "action": str(verdict.action),
                "reason": str(verdict.reason),
                "timestep": verdict.timestep,
                "weight": verdict.weight,
                "score": _null(verdict.score),
                "p_value": _null(verdict.p_value),
                "evidence": _null(verdict.evidence),
                "threshold": _null(verdict.threshold),
                "error": verdict.error,
            }
            self._rows.append(row)

    def flush(self, through: int | None = None) -> Path | None:
        """Write what was added since the last flush as one part (temporary name, then rename).

        ``through``: leave rows of later steps for the next part, which a resume from this step removes alone.
        """
        rows = [row for row in self._rows if through is None or row["step"] <= through]
        if not rows:
            return None
        first, last = rows[0]["step"], rows[-1]["step"]
        path = self.folder / f"rank{self.rank}-{first:08d}-{last:08d}.parquet"
        temporary = path.with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist(rows, schema=LEDGER_SCHEMA), temporary)
        temporary.rename(path)
        self._rows = self._rows[len(rows) :]
        return path


def read_ledger(folder: Path) -> pa.Table:
    """All parts of a run's ledger, of all ranks, ordered by step and position.

    Raises:
        ValueError: ``folder`` does not exist.
    """
    if not folder.is_dir():
        raise ValueError(f"no ledger at '{folder}'; name a run folder's ledger/")
    parts = [pq.read_table(path, schema=LEDGER_SCHEMA) for path in sorted(folder.glob("rank*.parquet"))]
    table = pa.concat_tables(parts) if parts else LEDGER_SCHEMA.empty_table()
    return table.sort_by(
        [("step", "ascending"), ("stream", "ascending"), ("epoch", "ascending"), ("offset", "ascending")]
    )


def _null(value: float | None) -> float | None:
    return None if value is None or value != value else float(value)
