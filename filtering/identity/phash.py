"""64-bit perceptual hashes that differ in a few bits, as they are or mirrored.

A hash (``imagehash.phash``) holds the signs, about their median, of the 8 x 8 lowest DCT coefficients of a picture.
Mirroring a picture changes the sign of the coefficients of odd horizontal frequency, so the hash of the mirrored
picture needs no look at the picture.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["BITS", "FEW", "apart", "joined", "mirrored"]

Hashes = npt.NDArray[np.uint64]
BITS: Final = 64
ODD_COLUMNS: Final = int("01010101" * 8, 2)
"""Bits of odd horizontal frequency; the hash is written row by row, its first bit highest."""
FEW: Final = 4
"""Set or unset bits below which a hash says nothing: an image without structure stays by itself."""


def mirrored(look: int) -> int:
    """The hash of the mirrored image, up to a few bits whose coefficient lies near the median."""
    return look ^ ODD_COLUMNS


def apart(a: Hashes, b: Hashes, mirror: bool = True) -> npt.NDArray[np.int64]:
    """Bits in which hashes [N] differ from others [N], as they are or, with ``mirror``, mirrored if that is less."""

    def bits(differ: Hashes) -> npt.NDArray[np.int64]:
        return np.bitwise_count(differ).astype(np.int64)

    plain = bits(a ^ b)
    return np.minimum(plain, bits(a ^ b ^ np.uint64(ODD_COLUMNS))) if mirror else plain


def joined(hashes: Hashes, bits: int = 4, mirror: bool = True, leaders: int = 0) -> npt.NDArray[np.int64]:
    """For each of ``hashes`` [N] the first one whose group it joins, [N]: itself, or an earlier first one that differs
    in at most ``bits`` bits, as it is or mirrored. The nearest such one counts; groups do not chain. The first
    ``leaders`` of them are first ones, whatever they are like.

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
        if leader is None and i >= leaders:
            leader = _nearest(hashes, looks, parts, places, bits)
        if leader is not None and i >= leaders:
            first[i] = leader
            continue
        known.setdefault(value, i)
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
        differ = np.bitwise_count(hashes[rows] ^ np.uint64(look)).astype(np.int64)
        if int(differ.min()) < best:
            best, found = int(differ.min()), int(rows[differ.argmin()])
    return found
