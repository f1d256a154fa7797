"""Names of groups in rows, and the row of a name: what takes most memory in a history of millions of groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Names"]

_KEY_BYTES: Final = 16
_LEAST: Final = 1024
_EMPTY: Final = -1


class Names:
    """Names numbered in the order they were added; 16 bytes each and 6 to 12 of an index.

    A content id, 32 hexadecimal digits, is kept as the 16 bytes it stands for. Any other name is kept as it is, some
    100 bytes more, beside its digest. The index is an open-addressing table with linear probing (Knuth, The Art of
    Computer Programming, vol. 3, 6.4, algorithm L), at most two thirds full.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._keys = np.zeros((_LEAST, 2), dtype="<u8")
        self._slots = np.full(_LEAST, _EMPTY, dtype=np.int32)
        self._others: dict[int, str] = {}
        self._count = 0
        for name in names:
            self.add(name)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> str:
        return self._others[row] if row in self._others else self._keys[row].tobytes().hex()

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(self._count))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, room to grow included; names that are no content ids come on top."""
        return self._keys.nbytes + self._slots.nbytes

    def row(self, name: str) -> int:
        """Row of ``name``; -1 where it was not added."""
        return int(self._slots[self._slot(name, *_key(name))])

    def add(self, name: str) -> int:
        """Row of ``name``, a new one where it has none."""
        first, second, plain = _key(name)
        slot = self._slot(name, first, second, plain)
        if self._slots[slot] != _EMPTY:
            return int(self._slots[slot])
        row = self._count
        if row == len(self._keys):
            larger = np.zeros((2 * row, 2), dtype="<u8")  # untouched, it takes no memory yet
            larger[:row] = self._keys
            self._keys = larger
        self._keys[row] = first, second
        if not plain:
            self._others[row] = name
        self._slots[slot] = row
        self._count += 1
        if 3 * self._count > 2 * len(self._slots):
            self._index(2 * len(self._slots))
        return row

    def _slot(self, name: str, first: int, second: int, plain: bool) -> int:
        """Where ``name`` stands in the index, or would."""
        mask = len(self._slots) - 1
        slot = first & mask
        while (row := int(self._slots[slot])) != _EMPTY:
            key = self._keys[row]
            # A name that is no content id could be made so that its digest is one.
            if key[0] == first and key[1] == second and (row not in self._others if plain else self[row] == name):
                break
            slot = (slot + 1) & mask
        return slot

    def _index(self, size: int) -> None:
        """Make the index anew with ``size`` slots, a power of two, all rows at a time."""
        self._slots = np.full(size, _EMPTY, dtype=np.int32)
        mask = np.uint64(size - 1)
        rows: npt.NDArray[np.int32] = np.arange(self._count, dtype=np.int32)
        slots = (self._keys[: self._count, 0] & mask).astype(np.int64)
        while len(rows):
            free = self._slots[slots] == _EMPTY
            self._slots[slots[free]] = rows[free]
            rest = self._slots[slots] != rows
            rows, slots = rows[rest], (slots[rest] + 1) & (size - 1)

    def state_dict(self) -> dict[str, Any]:
        """``keys``, int64 [N, 2], and by row the names that are no content ids."""
        return {
            "keys": torch.from_numpy(self._keys[: self._count].view("<i8").copy()),
            "others": dict(self._others),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        keys = state["keys"].numpy().view("<u8")
        self._count, self._others = len(keys), dict(state["others"])
        size = _LEAST
        while 3 * self._count > 2 * size:
            size *= 2
        self._keys = np.zeros((max(_LEAST, self._count), 2), dtype="<u8")
        self._keys[: self._count] = keys
        self._index(size)


def _key(name: str) -> tuple[int, int, bool]:
    """16 bytes that stand for ``name`` as two numbers, and whether they are the name itself."""
    data = b""
    if len(name) == 2 * _KEY_BYTES and name.isascii() and name.isalnum():
        try:
            data = bytes.fromhex(name)
        except ValueError:
            data = b""
    plain = len(data) == _KEY_BYTES and data.hex() == name
    if not plain:
        data = hashlib.blake2b(name.encode(), digest_size=_KEY_BYTES).digest()
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little"), plain
