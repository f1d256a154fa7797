"""Near-duplicates as groups, for ``data.groups``: images that look alike to a descriptor of the audit are one pair.

The filter's evidence accumulates per image content, so an image whose copies differ in bytes (compressed anew, cropped
a little, recoloured, mirrored) is many pairs that come round rarely, and none is condemned.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from memsieve.filtering.audit.query import BATCH, AuditQuery, Rows
from memsieve.filtering.audit.records import content_of
from memsieve.filtering.identity.descriptors import Kind
from memsieve.filtering.identity.leaders import Joined, joined_to_leaders
from memsieve.filtering.identity.phash import BITS, joined
from memsieve.filtering.settings import SettingsError

__all__ = ["Alike", "Grouping", "described_blocks", "group_audit", "kind_of"]

MOST_BITS: Final = 16
METADATA: Final = b"memsieve.groups"
"""Where a table of groups says how it was made, as JSON."""


@dataclass(frozen=True, slots=True)
class Alike:
    """When two images are one: by which descriptor of the audit, and from which likeness on.

    Attributes:
        by: ``phash``, which is in every audit, or a column that ``audit score --describe`` wrote, without its prefix.
        threshold: least cosine of embeddings; most bits that may differ in hashes.
        mirrored: whether a mirrored image is the same to ``phash``; other descriptors have their own mind about it.
    """

    by: str = "phash"
    threshold: float = 4
    mirrored: bool = True


@dataclass(frozen=True, slots=True)
class Grouping:
    """What was found: distinct images that the descriptor says something of, images that belong to a group of several,
    such groups, and the largest."""

    images: int
    joined: int
    groups: int
    largest: int


def group_audit(run: Path, out: Path, alike: Alike = Alike(), *, partial: bool = False) -> Grouping:
    """Write ``out``, a table for ``data.groups`` of the images of the audit in ``run`` that have near-duplicates.

    Columns ``content`` (the image's content id), ``group`` (the content of the group's leader), ``likeness`` to it,
    ``descriptor`` and ``threshold``. Images that stand alone are left out: they are groups by themselves. Images come
    in the audit's order, so that more shards leave the groups of those before them as they were.

    Raises:
        SettingsError: ``out`` is no Parquet name, the threshold is out of range, the audit has no such descriptor or is
            not complete.
    """
    if out.suffix != ".parquet":
        raise SettingsError(f"--out '{out}' must end in .parquet, which data.groups reads")
    with AuditQuery() as query:
        rows = query.add("audit", run, partial=partial)
        contents, found = _by_phash(query, alike) if alike.by == "phash" else _by_descriptor(query, rows, alike)
    sizes = np.bincount(found.leaders, minlength=len(contents)) if len(contents) else np.zeros(0, dtype=np.int64)
    members = np.flatnonzero(sizes[found.leaders] > 1) if len(contents) else np.zeros(0, dtype=np.int64)
    _write(out, contents, members, found, alike)
    return Grouping(len(contents), len(members), int((sizes > 1).sum()), int(sizes.max(initial=0)))


def kind_of(query: AuditQuery, rows: Rows, by: str) -> Kind:
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


def described_blocks(query: AuditQuery, rows: Rows, by: str) -> Iterator[tuple[list[str], npt.NDArray[Any]]]:
    """(content ids, their rows of a descriptor [n, W]) of every distinct image that has one, in the audit's order, a
    part at a time."""
    column = f"descriptor_{by}"
    firsts = query.numbers(
        f"SELECT min(row) AS row FROM {rows.name} WHERE {column} IS NOT NULL AND content IS NOT NULL GROUP BY content "
        "ORDER BY row"
    )["row"]
    for part in rows.parts:
        start = part.first
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


def _by_descriptor(query: AuditQuery, rows: Rows, alike: Alike) -> tuple[list[str], Joined]:
    kind = kind_of(query, rows, alike.by)
    if not (alike.threshold >= 0 if kind == "bits" else -1 <= alike.threshold <= 1):
        least = "bits that may differ, 0 or more" if kind == "bits" else "a cosine, from -1 to 1"
        raise SettingsError(f"--threshold = {alike.threshold:g}: of {alike.by} it must be {least}")
    contents: list[str] = []

    def blocks() -> Iterator[npt.NDArray[Any]]:
        for names, values in described_blocks(query, rows, alike.by):
            contents.extend(names)
            yield values

    found = joined_to_leaders(blocks(), kind, -alike.threshold if kind == "bits" else alike.threshold)
    return contents, found


def _by_phash(query: AuditQuery, alike: Alike) -> tuple[list[str], Joined]:
    if not 0 <= alike.threshold <= MOST_BITS or alike.threshold != int(alike.threshold):
        raise SettingsError(f"--bits = {alike.threshold:g} must lie between 0 and {MOST_BITS} of {BITS}")
    found = query.rows(
        "SELECT arg_min(sha256, row), arg_min(phash, row) FROM audit WHERE content IS NOT NULL AND phash IS NOT NULL "
        "GROUP BY content ORDER BY min(row)"
    )
    contents = [content_of(sha) for sha, _ in found]
    hashes = np.array([int(look, 16) for _, look in found], dtype=np.uint64)
    leaders = joined(hashes, int(alike.threshold), alike.mirrored)
    apart = hashes ^ hashes[leaders] if len(hashes) else hashes
    differ = np.unpackbits(apart.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1) if len(hashes) else hashes
    return contents, Joined(leaders, -differ.astype(np.float32))


def _write(out: Path, contents: list[str], members: npt.NDArray[np.int64], found: Joined, alike: Alike) -> None:
    names = pa.array(contents, pa.string())
    table = pa.table(
        {
            "content": names.take(pa.array(members)),
            "group": names.take(pa.array(found.leaders[members])),
            "likeness": pa.array(found.likeness[members], pa.float32()),
            "descriptor": pc.cast(pa.array([alike.by] * len(members)), pa.string()),
            "threshold": pa.array(np.full(len(members), alike.threshold), pa.float64()),
        }
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    pq.write_table(table.replace_schema_metadata({METADATA: json.dumps(asdict(alike)).encode()}), temporary)
    os.replace(temporary, out)
