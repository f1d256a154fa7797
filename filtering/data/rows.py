"""The rows that travel through memsieve: how a sample is named, from the shard to the ledger."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Chunk", "FailedRow", "Place", "RawRow", "Row", "SkippedRow", "content_id"]


def content_id(data: bytes) -> str:
    """Identity of an image by its encoded bytes: the first 128 bits of their sha256, in hex."""
    return hashlib.sha256(data).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class RawRow:
    """One sample as read, not decoded. ``error`` is set where the source could not read it whole.

    ``captions`` holds all of them where the sample has several, of which a visit draws one; ``caption`` is then the
    first, which audits and indexes take. ``status`` is one word for the kind of error (see ``data.fields``);
    ``span`` is where its members lie in an uncompressed shard, as bytes [start, end), (0, 0) in other sources and where
    the sample was cut off.
    """

    key: str
    shard: str
    index: int
    image: bytes = b""
    caption: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    status: str = "ok"
    span: tuple[int, int] = (0, 0)
    captions: tuple[str, ...] = ()

    @property
    def all_captions(self) -> tuple[str, ...]:
        """Every caption of the sample, one or more; none where it could not be read."""
        return self.captions or (() if self.caption is None else (self.caption,))


@dataclass(slots=True)
class Row:
    """One decoded sample. ``pixels`` is float32 [3, H, W] in [-1, 1]; ``group`` is the identity that evidence
    accumulates under; (``stream``, ``epoch``, ``offset``) is its position, unique within a run."""

    key: str
    shard: str
    index: int
    group: str
    caption: str
    pixels: torch.Tensor
    stream: int
    epoch: int
    offset: int


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A sample that could not be used, and why."""

    key: str
    shard: str
    index: int
    error: str


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A sample that the sieve took out before it was decoded, at its position; ``banned``: listed in
    ``filter.always_drop``, else its group is condemned."""

    key: str
    shard: str
    index: int
    group: str
    stream: int
    epoch: int
    offset: int
    banned: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """How far a stream is in a pass: raw rows consumed, and whether its end was met."""

    offset: int = 0
    ended: bool = False


@dataclass(slots=True)
class Chunk:
    """What one stream gives in one turn: ``rows``, fewer than asked for where its pass has ended (``ended``) or little
    was usable; the samples read on the way that were not, how many a keep-list took out by reason, and the position
    after it."""

    stream: int
    rows: list[Row]
    failed: list[FailedRow]
    held_out: list[str]
    epoch: int
    offset: int
    ended: bool = False
    not_kept: dict[str, int] = field(default_factory=dict)
    skipped: list[SkippedRow] = field(default_factory=list)
    """What the sieve took out on the way."""

    @property
    def place(self) -> Place:
        """Where the stream is after it."""
        return Place(self.offset, self.ended)
