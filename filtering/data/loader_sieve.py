"""Condemned groups at the loader: an append-only file that the main process writes and the loader's workers read.

Who is condemned is decided while a window trains; workers are ahead of that by then. So a record names the window from
which it holds, far enough ahead that no worker can have read that window yet: what is read is a function of the
decisions alone, not of timing, nor of the number of workers.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from memsieve.filtering.types import group_name

__all__ = ["DELAY", "RECORD_BYTES", "Sieve", "SieveFile", "Sieved", "group_digest"]

DELAY: Final = 4
"""Windows from a decision to the first one that is read by it. Loader workers are up to two windows ahead; the same
delay without workers makes the run independent of their number."""
_RECORD: Final = struct.Struct("<16sq")
RECORD_BYTES: Final = _RECORD.size
"""A record: 16 bytes of digest, and 8 that hold the window times two, plus one where the group is condemned; without
the one it was freed again, as runs of 0.1 could."""


def group_digest(group: str) -> bytes:
    """16 bytes that stand for a group's name."""
    return hashlib.blake2b(group_name(group).encode(), digest_size=16).digest()


class SieveFile:
    """Who is condemned in one rank's run, and from when on, written whole records at a time.

    Args:
        path: written anew.
        records: what the run had noted where it is resumed.
    """

    def __init__(self, path: Path, records: bytes = b"") -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb", buffering=0)  # each write is seen by the workers when it returns
        self._file.write(records)

    def append(self, condemned: Sequence[str], window: int) -> None:
        """Note groups that are skipped from ``window`` on."""
        if condemned:
            records = [_RECORD.pack(group_digest(group), window * 2 + 1) for group in condemned]
            self._file.write(b"".join(records))

    def records(self) -> bytes:
        """Everything that was ruled, for a checkpoint."""
        return self.path.read_bytes()


class Sieved(StrEnum):
    """What becomes of a row as it is read."""

    PASS = "pass"
    SKIP = "skip"
    """Its group is condemned."""
    BANNED = "banned"
    """Listed in ``always_drop``."""


class Sieve:
    """Reads the records and applies those that hold. Used by the streams of one process, at windows that never go back.

    Args:
        path: the file of this rank.
        never, always: keys and groups that a person has decided on.
    """

    def __init__(self, path: Path, never: Sequence[str] = (), always: Sequence[str] = ()) -> None:
        self.path = path
        self.never, self.always = frozenset(never), frozenset(always)
        self._condemned: set[bytes] = set()
        self._pending: deque[tuple[bytes, int]] = deque()
        self._read = 0

    def afresh(self) -> Sieve:
        """One that has read nothing yet, for windows before those that this one has seen."""
        return Sieve(self.path, tuple(self.never), tuple(self.always))

    def __len__(self) -> int:
        return len(self._condemned)

    def advance(self, window: int) -> None:
        """Apply the records that hold at ``window``, reading what was written since the last call."""
        if self.path.stat().st_size >= self._read + RECORD_BYTES:
            with self.path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
            whole = data[: len(data) // RECORD_BYTES * RECORD_BYTES]  # a record being written counts next time
            self._read += len(whole)
            self._pending.extend(_RECORD.iter_unpack(whole))
        while self._pending and self._pending[0][1] >> 1 <= window:
            digest, number = self._pending.popleft()
            (self._condemned.add if number & 1 else self._condemned.discard)(digest)

    def judge(self, key: str, group: str) -> Sieved:
        """What becomes of a row, by the records applied so far."""
        names = {key, group}
        if names & self.never or not (self.always or self._condemned):
            return Sieved.PASS
        if names & self.always:
            return Sieved.BANNED
        return Sieved.SKIP if group_digest(group) in self._condemned else Sieved.PASS
