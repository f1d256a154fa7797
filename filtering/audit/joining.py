"""Which new images join which leaders: by a descriptor, by perceptual hashes, by captions.

Images of audits that a file of groups was made of are known: those that joined nobody lead, and lead on; what is new
joins them, or leads. Nothing that is known is joined anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memsieve.filtering.audit.described import CONTENT, described_blocks, kind_of
from memsieve.filtering.audit.group_files import Alike
from memsieve.filtering.audit.query import AuditQuery, Rows
from memsieve.filtering.identity.leaders import Leaders, joined_to_leaders
from memsieve.filtering.identity.phash import BITS, apart, joined
from memsieve.filtering.settings import SettingsError

__all__ = ["Found", "Images", "find_groups"]

MOST_BITS: Final = 16
_LOOK: Final = "try_cast('0x' || phash AS UBIGINT)"


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one audit: SQL conditions of the rows that are known, and of those that are new.

    The table ``before`` (``content``, ``leader``) has the images of the groups that there are, ``known_contents``
    (``content``) all images that are known.
    """

    rows: Rows
    known: str = "false"
    new: str = "true"

    @property
    def leading(self) -> str:
        """Of the known rows those whose image leads."""
        return f"{self.known} AND {CONTENT} NOT IN (SELECT content FROM before WHERE leader <> content)"

    @property
    def joining(self) -> str:
        """Of the new rows those whose image is not known by another row."""
        return f"{self.new} AND content NOT IN (SELECT content FROM known_contents)"


@dataclass(slots=True)
class Found:
    """What joins, in its order: content ids [N], those of their leaders, and how alike the two are; new images that
    were looked at; and images that all but joined. Who leads is not told: most images of large data are alone."""

    images: int
    contents: pa.Array
    leaders: pa.Array
    likeness: pa.Array
    near: list[tuple[str, str, float]] = field(default_factory=list)


def find_groups(query: AuditQuery, images: list[Images], alike: Alike) -> Found:
    """Join what is new in ``images``.

    Raises:
        SettingsError: the threshold is out of range, or an audit has no such descriptor.
    """
    ways: dict[str, Callable[[AuditQuery, list[Images], Alike], Found]] = {"phash": _by_phash, "caption": _by_caption}
    return ways.get(alike.by, _by_descriptor)(query, images, alike)


def _by_descriptor(query: AuditQuery, images: list[Images], alike: Alike) -> Found:
    kinds = {kind_of(one.rows, alike.by) for one in images}
    kind = kinds.pop()
    if not (alike.threshold >= 0 if kind == "bits" else -1 <= alike.threshold <= 1):
        least = "bits that may differ, 0 or more" if kind == "bits" else "a cosine, from -1 to 1"
        raise SettingsError(f"--threshold = {alike.threshold:g}: of {alike.by} it must be {least}")
    leaders = Leaders(kind, -alike.threshold if kind == "bits" else alike.threshold)
    names: list[pa.Array] = []

    def blocks(which: str) -> Iterator[npt.NDArray[Any]]:
        for one in images:
            where = one.leading if which == "leading" else one.joining
            if which == "leading" and one.known == "false":
                continue
            for contents, values in described_blocks(query, one.rows, alike.by, where):
                names.append(pa.array(contents, pa.string()))
                yield values

    known = 0
    for values in blocks("leading"):
        leaders.add(values, list(range(known, known + len(values))))
        known += len(values)
    found = joined_to_leaders(blocks("joining"), leaders)
    every = pa.chunked_array(names, pa.string()).combine_chunks()
    near = [(str(every[i]), str(every[j]), likeness) for i, j, likeness in leaders.near]
    return _joined(every, found.leaders, found.likeness, known, near)


def _by_phash(query: AuditQuery, images: list[Images], alike: Alike) -> Found:
    if not 0 <= alike.threshold <= MOST_BITS or alike.threshold != int(alike.threshold):
        raise SettingsError(f"--bits = {alike.threshold:g} must lie between 0 and {MOST_BITS} of {BITS}")
    names: list[pa.Array] = []
    looks: list[npt.NDArray[np.uint64]] = []
    known = 0
    for which in ("leading", "joining"):
        for one in images:
            sql = (
                f"SELECT arg_min({CONTENT}, row) AS name, arg_min({_LOOK}, row) AS look FROM {one.rows.name} WHERE "
                f"content IS NOT NULL AND {_LOOK} IS NOT NULL AND ({getattr(one, which)}) GROUP BY content "
                "ORDER BY min(row)"
            )
            for batch in query.batches(sql):
                names.append(batch.column("name").cast(pa.string()))
                looks.append(batch.column("look").to_numpy().astype(np.uint64))
                known += len(batch) if which == "leading" else 0
    every = pa.chunked_array(names, pa.string()).combine_chunks()
    hashes = np.concatenate(looks) if looks else np.zeros(0, np.uint64)
    leaders = joined(hashes, int(alike.threshold), alike.mirrored, known)
    differ = apart(hashes, hashes[leaders], alike.mirrored)[known:]
    return _joined(every, leaders[known:], -differ, known)


def _joined(
    every: pa.Array,
    leaders: npt.NDArray[np.int64],
    likeness: npt.NDArray[Any],
    known: int,
    near: list[tuple[str, str, float]] | None = None,
) -> Found:
    """Of images [K + N] by their content ids, ``known`` of them first, the new ones that another image leads."""
    joins = np.flatnonzero(leaders != np.arange(known, known + len(leaders)))
    contents, led = every.take(pa.array(known + joins)), every.take(pa.array(leaders[joins]))
    return Found(len(leaders), contents, led, pa.array(likeness[joins], pa.float32()), near or [])


def _by_caption(query: AuditQuery, images: list[Images], alike: Alike) -> Found:
    """An image counts by the caption of its first row; images without a caption stand alone."""
    query.run("CREATE TABLE captioned (number BIGINT, name VARCHAR, caption VARCHAR, known BOOLEAN)")
    start = 0
    for one in images:
        for known, where in ((True, one.known), (False, one.joining)):
            query.run(
                f"INSERT INTO captioned SELECT {start} + min(row), arg_min({CONTENT}, row), "
                f"arg_min(caption_hash, row), {known} FROM {one.rows.name} WHERE content IS NOT NULL AND caption <> '' "
                f"AND ({where}) GROUP BY content"
            )
        start += len(one.rows)
    # A caption's leader is the first image with it, or whom that image joined.
    query.run(
        "CREATE TABLE caption_leaders AS SELECT caption, arg_min(coalesce(b.leader, name), (NOT known, number)) AS "
        "leader FROM captioned LEFT JOIN before b ON b.content = name GROUP BY caption"
    )
    parts = list(
        query.batches(
            "SELECT name, leader FROM captioned JOIN caption_leaders USING (caption) "
            "WHERE NOT known AND name <> leader ORDER BY number"
        )
    )
    names, leaders = (
        pa.chunked_array([part.column(i).cast(pa.string()) for part in parts], pa.string()).combine_chunks()
        for i in range(2)
    )
    looked_at = query.number("SELECT count(*) FROM captioned WHERE NOT known")
    return Found(looked_at, names, leaders, pa.nulls(len(names), pa.float32()))
