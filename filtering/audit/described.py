"""The descriptors of an audit's images, streamed: each image once, in the audit's order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.audit.query import BATCH, AuditQuery, Rows
from memsieve.filtering.audit.records import content_of
from memsieve.filtering.identity.descriptors import Kind
from memsieve.filtering.settings import SettingsError

__all__ = ["CONTENT", "described_blocks", "kind_of"]

CONTENT: Final = "substr(sha256, 1, 32)"
"""The content id of an image in SQL."""


def kind_of(rows: Rows, by: str) -> Kind:
    """Whether a descriptor of an audit is of bits or of floats.

    Raises:
        SettingsError: the audit has none of this name.
    """
    schema = pq.read_schema(rows.parts[0].file)
    column = f"descriptor_{by}"
    if column not in schema.names:
        there = [name.removeprefix("descriptor_") for name in schema.names if name.startswith("descriptor_")]
        raise SettingsError(
            f"--by {by}: the audit has no such descriptor (it has {', '.join(['phash', *there])}); score it with "
            f"--describe {by}"
        )
    return "bits" if schema.field(column).type.value_type == pa.uint8() else "floats"


def described_blocks(
    query: AuditQuery, rows: Rows, by: str, where: str = "true"
) -> Iterator[tuple[list[str], npt.NDArray[Any]]]:
    """(content ids, their rows of a descriptor [n, W]) of every distinct image that has one, in the audit's order, a
    part at a time; of those alone that have a row which meets the SQL condition ``where``."""
    column = f"descriptor_{by}"
    firsts = query.numbers(
        f"SELECT min(row) AS row FROM {rows.name} WHERE {column} IS NOT NULL AND content IS NOT NULL AND ({where}) "
        "GROUP BY content ORDER BY row"
    )["row"]
    for part in rows.parts:
        start = part.first
        if np.searchsorted(firsts, start) == np.searchsorted(firsts, start + part.rows):
            continue
        for batch in pq.ParquetFile(part.file).iter_batches(BATCH, columns=["sha256", column]):
            low, high = np.searchsorted(firsts, [start, start + len(batch)])
            chosen = batch.take(pa.array(firsts[low:high] - start))
            start += len(batch)
            if len(chosen):
                values = chosen.column(column)
                width = values.type.list_size
                yield (
                    [content_of(sha) for sha in chosen.column("sha256").to_pylist()],
                    values.flatten().to_numpy(zero_copy_only=False).reshape(-1, width),
                )
