"""Groups of rows that are alike, found in one pass: each row joins the most alike leader before it, or becomes one.

Whoever joins is as like its leader as the threshold asks, so that no group is wider than two thresholds: likeness does
not chain, as it does where every row may bring in its own neighbours. What groups there are depends on the order of the
rows alone, not on how they are handed over: rows that come later leave the earlier ones as they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from memsieve.filtering.extras import install
from memsieve.filtering.identity.descriptors import Kind
from memsieve.filtering.settings import SettingsError

__all__ = ["BLOCK", "FLAT_MOST", "Joined", "Leaders", "alike", "joined_to_leaders"]

Rows = npt.NDArray[Any]
BLOCK: Final = 2048
"""Rows that are compared with each other at a time."""
FLAT_MOST: Final = 200_000
"""Leaders that every row is compared with; of more, those in the nearest inverted lists."""
PROBES: Final = 32
"""Inverted lists that are looked into."""
NEAR: Final = 200
"""New leaders that are remembered for having all but joined another one: those that a person may look at."""


@dataclass(frozen=True, slots=True)
class Joined:
    """For rows [N] in their order: the number of the leader that each joins, its own where it is one; and how alike the
    two are, 1 or 0 bits for a leader itself."""

    leaders: npt.NDArray[np.int64]
    likeness: npt.NDArray[np.float32]


Near = tuple[int, int, float]
"""Two rows by their numbers that all but joined, and how alike they are."""


def alike(a: Rows, b: Rows) -> npt.NDArray[np.float32]:
    """Likeness of rows [N, W] and [M, W], [N, M]: cosines of floats; of bits (uint8) minus the bits that differ."""
    if a.dtype == np.uint8:
        ones = [np.unpackbits(rows, axis=1).astype(np.float32) for rows in (a, b)]
        same: npt.NDArray[np.float32] = ones[0] @ ones[1].T
        return 2.0 * same - ones[0].sum(1)[:, None] - ones[1].sum(1)[None]
    found: npt.NDArray[np.float32] = a.astype(np.float32) @ b.astype(np.float32).T
    return found


def joined_to_leaders(blocks: Iterable[Rows], leaders: Leaders) -> Joined:
    """Join the rows of ``blocks``, [n, W] each, in their order (float16 of length 1, or uint8) to ``leaders``, those
    that are known and those among the rows; their numbers go on from the known ones'.

    Raises:
        SettingsError: faiss is not installed.
    """
    found, numbers = leaders, max(leaders.numbers, default=-1) + 1
    parts: list[Joined] = []
    for rows in _of_one_size(blocks):
        parts.append(found.join(rows, numbers))
        numbers += len(rows)
    if not parts:
        return Joined(np.zeros(0, np.int64), np.zeros(0, np.float32))
    return Joined(np.concatenate([p.leaders for p in parts]), np.concatenate([p.likeness for p in parts]))


@dataclass(slots=True)
class Leaders:
    """The leaders so far: their rows in an index, and the numbers of the rows that they are.

    Attributes:
        kind: of the rows.
        threshold: least likeness to a leader of those that join it; of bits a number below 0.
        near: new leaders that all but joined another one, the most alike first.
    """

    kind: Kind
    threshold: float
    numbers: list[int] = field(default_factory=list)
    near: list[Near] = field(default_factory=list)
    _index: Any = None

    def join(self, rows: Rows, first: int) -> Joined:
        """Join ``rows`` [n, W], whose numbers begin with ``first``; leaders among them are known from then on."""
        before, likeness = self._nearest(rows)
        leaders = np.array([self.numbers[i] if i >= 0 else -1 for i in before.tolist()], dtype=np.int64)
        among = alike(rows, rows)
        new: list[int] = []
        for i in range(len(rows)):
            if new:
                places = np.array(new)
                nearest = int(among[i, places].argmax())
                if among[i, places[nearest]] > likeness[i]:
                    leaders[i], likeness[i] = first + places[nearest], among[i, places[nearest]]
            if likeness[i] < self.threshold:
                if leaders[i] >= 0:
                    self.near.append((first + i, int(leaders[i]), float(likeness[i])))
                leaders[i], likeness[i] = first + i, among[i, i]
                new.append(i)
        self.near = sorted(self.near, key=lambda pair: -pair[2])[:NEAR]
        self.add(rows[new], [first + i for i in new])
        return Joined(leaders, likeness)

    def _nearest(self, rows: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The nearest leader of each row and its likeness; -1 and minus infinity where there is none."""
        if self._index is None or not len(rows):
            return np.full(len(rows), -1, np.int64), np.full(len(rows), -np.inf, np.float32)
        if self.kind == "bits":
            distances, found = self._index.search(np.ascontiguousarray(rows), 1)
            likeness = -distances[:, 0].astype(np.float32)
        else:
            likeness, found = self._index.search(np.ascontiguousarray(rows, dtype=np.float32), 1)
            likeness = likeness[:, 0].copy()
        likeness[found[:, 0] < 0] = -np.inf
        return found[:, 0].astype(np.int64), likeness

    def add(self, rows: Rows, numbers: list[int]) -> None:
        """Rows [n, W] that lead, whatever they are like, under these numbers."""
        if not len(rows):
            return
        faiss = _faiss()
        if self._index is None:
            width = rows.shape[1]
            self._index = faiss.IndexBinaryFlat(8 * width) if self.kind == "bits" else faiss.IndexFlatIP(width)
        self._index.add(np.ascontiguousarray(rows, dtype=np.uint8 if self.kind == "bits" else np.float32))
        self.numbers += numbers
        if isinstance(self._index, faiss.IndexFlatIP | faiss.IndexBinaryFlat) and len(self.numbers) > FLAT_MOST:
            self._index = _inverted(faiss, self._index, self.kind)


def _inverted(faiss: Any, flat: Any, kind: Kind) -> Any:
    """The leaders of a flat index in inverted lists: of floats in half precision, which is what they came in."""
    lists = int(4 * math.sqrt(flat.ntotal))
    if kind == "bits":
        quantizer = faiss.IndexBinaryFlat(flat.d)
        index = faiss.IndexBinaryIVF(quantizer, flat.d, lists)
        rows = faiss.vector_to_array(flat.xb).reshape(flat.ntotal, flat.d // 8)
    else:
        quantizer = faiss.IndexFlatIP(flat.d)
        kept = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(quantizer, flat.d, lists, kept, faiss.METRIC_INNER_PRODUCT)
        rows = flat.reconstruct_n(0, flat.ntotal)
    index.own_fields = True
    quantizer.this.disown()
    index.train(np.ascontiguousarray(rows[:: max(1, len(rows) // (64 * lists))]))
    index.add(rows)
    index.nprobe = PROBES
    return index


def _of_one_size(blocks: Iterable[Rows]) -> Iterator[Rows]:
    """The same rows, ``BLOCK`` at a time."""
    held: list[Rows] = []
    count = 0
    for rows in blocks:
        while len(rows):
            part = rows[: BLOCK - count]
            held.append(part)
            count, rows = count + len(part), rows[len(part) :]
            if count == BLOCK:
                yield np.concatenate(held)
                held, count = [], 0
    if count:
        yield np.concatenate(held)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise SettingsError(f"groups by a descriptor need faiss: {install('faiss')}") from error
    return faiss
