"""The rows of an audit in memory, for who needs all of them at hand; ``AuditQuery`` asks larger ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.audit.folder import AuditFolder
from memsieve.filtering.audit.records import MEASURES
from memsieve.filtering.audit.status import finished_tasks

__all__ = ["PLAIN", "Array", "Scores", "load_scores", "matrix"]

Array = np.ndarray[Any, Any]
PLAIN: Final = ("shard", "index", "key", "part", "uid", "status", "error", "sha256", "caption_hash", "phash")


@dataclass(slots=True)
class Scores:
    """An audit's rows in order; ``timesteps`` [N, K] and ``draws[name]`` [N, K], NaN where not measured."""

    about: dict[str, Any]
    table: pa.Table
    timesteps: Array
    draws: dict[str, Array]

    def __len__(self) -> int:
        return len(self.table)


def load_scores(root: Path, *, partial: bool = False, columns: tuple[str, ...] = PLAIN) -> Scores:
    """The rows of the audit in ``root`` that are done, in the order of its tasks.

    Raises:
        SettingsError: it is no audit, or is not complete and ``partial`` is off.
    """
    folder = AuditFolder(root)
    about = folder.settings()
    _, done = finished_tasks(root, partial=partial)
    wanted = [*columns, "timesteps", *MEASURES]
    table = pa.concat_tables(pq.read_table(folder.scores(task), columns=wanted) for task in done)
    width = int(about["deciding"].get("draws", 0))
    draws = {name: matrix(table[name], width) for name in MEASURES}
    return Scores(about, table.select(list(columns)), matrix(table["timesteps"], width), draws)


def matrix(column: pa.ChunkedArray | pa.Array, width: int) -> Array:
    """A list column as float64 [N, width], rows without a list as NaN."""
    found = np.full((len(column), width), np.nan)
    start = 0
    # Chunk by chunk: joined, the offsets of a long column overflow.
    for lists in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        valid = np.flatnonzero(lists.is_valid().to_numpy(zero_copy_only=False))
        if width and len(valid):
            values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
            found[start + valid] = values.reshape(-1, width)
        start += len(lists)
    return found
