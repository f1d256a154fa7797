"""Near-duplicates as groups: images that look alike to a perceptual hash, for ``data.groups``.

The filter's evidence accumulates per image content, so an image whose copies differ in bytes (compressed anew, cropped
a little, recoloured, mirrored) is many pairs that come round rarely, and none is condemned. An audit has each image's
hash (``imagehash.phash``: the signs, about their median, of the 8 x 8 lowest DCT coefficients); images whose hashes
differ in a few bits are one group here. Mirroring an image changes the sign of the coefficients of odd horizontal
frequency, so the hash of the mirrored image needs no look at the image.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.audit.records import content_of
from memsieve.filtering.audit.table import load_scores
from memsieve.filtering.settings import SettingsError

__all__ = ["Grouping", "group_audit", "joined", "mirrored"]

Hashes = npt.NDArray[np.uint64]
BITS: Final = 64
ODD_COLUMNS: Final = int("01010101" * 8, 2)
"""Bits of odd horizontal frequency; the hash is written row by row, its first bit highest."""
MOST_BITS: Final = 16
FEW: Final = 4
"""Set or unset bits below which a hash says nothing: an image without structure stays by itself."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """What was found: distinct images, images that belong to a group of several, such groups, and the largest."""

    images: int
    joined: int
    groups: int
    largest: int


def mirrored(look: int) -> int:
    """The hash of the mirrored image, up to a few bits whose coefficient lies near the median."""
    return look ^ ODD_COLUMNS


def joined(hashes: Hashes, bits: int = 4, mirror: bool = True) -> npt.NDArray[np.int64]:
    """For each of ``hashes`` [N] the first one whose group it joins, [N]: itself, or an earlier first one that differs
    in at most ``bits`` bits, as it is or mirrored. The nearest such one counts; groups do not chain.

    Two hashes that differ in ``bits`` bits agree in one of ``bits`` + 1 parts (Norouzi et al., CVPR 2012), so only
    those that share a part are compared.
    """
    edges = np.linspace(0, BITS, bits + 2).astype(int)
    parts = [(int(low), (1 << int(high - low)) - 1) for low, high in pairwise(edges)]
    places: list[dict[int, list[int]]] = [{} for _ in parts]
    first = np.arange(len(hashes), dtype=np.int64)
    known: dict[int, int] = {}
    for i, value in enumerate(hashes.tolist()):
        if not FEW <= value.bit_count() <= BITS - FEW:
            continue
        looks = [value, mirrored(value)] if mirror else [value]
        leader = next((known[look] for look in looks if look in known), None)
        if leader is None:
            leader = _nearest(hashes, looks, parts, places, bits)
        if leader is not None:
            first[i] = leader
            continue
        known[value] = i
        for (low, mask), place in zip(parts, places, strict=True):
            place.setdefault(value >> low & mask, []).append(i)
    return first


def _nearest(
    hashes: Hashes, looks: list[int], parts: list[tuple[int, int]], places: list[dict[int, list[int]]], bits: int
) -> int | None:
    best, found = bits + 1, None
    for look in looks:
        near = {i for (low, mask), place in zip(parts, places, strict=True) for i in place.get(look >> low & mask, ())}
        if not near:
            continue
        rows = np.array(sorted(near), dtype=np.int64)
        apart = np.unpackbits((hashes[rows] ^ np.uint64(look)).view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1)
        if int(apart.min()) < best:
            best, found = int(apart.min()), int(rows[apart.argmin()])
    return found


def group_audit(run: Path, out: Path, bits: int = 4, mirror: bool = True, partial: bool = False) -> Grouping:
    """Write ``out``, a table for ``data.groups`` of the images of the audit in ``run`` that have near-duplicates.

    Columns ``content`` (the image's content id) and ``group`` (the content of the group's first
    image). Images that stand alone are left out: they are groups by themselves.

    Raises:
        SettingsError: ``out`` is no Parquet name, ``bits`` lies beyond 0 to 16, or the audit is not complete.
    """
    if out.suffix != ".parquet":
        raise SettingsError(f"--out '{out}' must end in .parquet, which data.groups reads")
    if not 0 <= bits <= MOST_BITS:
        raise SettingsError(f"--bits = {bits} must lie between 0 and {MOST_BITS} of {BITS}")
    table = load_scores(run, partial=partial, columns=("sha256", "phash")).table
    looks: dict[str, int] = {}
    for sha256, look in zip(table["sha256"].to_pylist(), table["phash"].to_pylist(), strict=True):
        if sha256 is not None and look is not None:
            looks.setdefault(content_of(sha256), int(look, 16))
    names, hashes = list(looks), np.array(list(looks.values()), dtype=np.uint64)
    first = joined(hashes, bits, mirror)
    sizes = np.bincount(first, minlength=len(first)) if len(first) else np.zeros(0, dtype=np.int64)
    rows = [i for i, leader in enumerate(first.tolist()) if sizes[leader] > 1]
    columns = {"content": [names[i] for i in rows], "group": [names[first[i]] for i in rows]}
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    pq.write_table(pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()}), temporary)
    os.replace(temporary, out)
    return Grouping(len(names), len(rows), int((sizes > 1).sum()), int(sizes.max(initial=0)))
