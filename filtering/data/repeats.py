"""``data.repeats``: of rows that show one picture, so many a pass, others each time.

A repeat that the loader can know needs no evidence. Which rows are of one group is known before the first pass: by a
keep-list, whose audit has seen every row, or by a pass over the data that hashes images and keeps what it found.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.group_table import group_table
from memsieve.filtering.data.kept_source import KeptSource
from memsieve.filtering.data.pool import Ranks
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.data.sources import Shards, Source

__all__ = ["REPEAT", "Repeats", "find_repeats"]

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
REPEAT: Final = "repeat"
"""What rows that are left out of a pass are counted as, among those that are not kept."""
NOTHING: Final = 0
"""In place of the hash of a row that could not be read: it repeats nobody."""
_FAR: Final = 1 << 32
"""Rows of a shard, at most, in the order of all rows."""
_SAY_AFTER: Final = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Members:
    """Rows of one shard that are of groups with too many rows: their numbers in the shard, ascending, which member of
    its group each is, how many the group has, and the group's hash; [N] each."""

    index: Places
    member: Places
    of: Places
    group: Hashes


@dataclass(frozen=True, slots=True)
class Repeats:
    """Which rows of a pass are left out.

    Attributes:
        most: rows of a group in a pass.
        surplus: rows that every pass leaves out.
        digest: of what is known of the rows, for resuming.
    """

    most: int
    surplus: int
    digest: str
    _members: dict[str, _Members]

    def leaves_out(self, shard: str, index: int, epoch: int, seed: int) -> bool:
        """Whether a row is left out of pass ``epoch``: a group's members take turns, from one drawn by ``seed`` on."""
        members = self._members.get(shard)
        if members is None:
            return False
        place = int(np.searchsorted(members.index, index))
        if place == len(members.index) or int(members.index[place]) != index:
            return False
        of, group = int(members.of[place]), int(members.group[place])
        first = (_drawn(seed, group) + epoch * self.most) % of
        return (int(members.member[place]) - first) % of >= self.most


def find_repeats(source: Source, config: DataConfig, ranks: Ranks) -> Repeats | None:
    """What ``config.repeats`` leaves out of ``source``; None where it leaves out nothing by its setting. A collective:
    each rank looks at its share of the parts, and all know what all have found."""
    if config.repeats == "all":
        return None
    mine = list(_hashed(source, config, ranks.rank, ranks.world_size))
    ranks.meet()
    stretches = [stretch for theirs in ranks.exchange.gather_objects(mine) for stretch in theirs]
    stretches.sort(key=lambda stretch: int(stretch.order[0]))
    hashes = np.concatenate([stretch.hashes for stretch in stretches]) if stretches else np.zeros(0, np.uint64)
    order = np.concatenate([stretch.order for stretch in stretches]) if stretches else np.zeros(0, np.int64)
    return _repeats(stretches, _grouped(hashes, config), order, 1 if config.repeats == "once" else config.repeats)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows of one shard: their places among all rows, their numbers in the shard, the hashes of what they show."""

    shard: str
    order: Places
    index: Places
    hashes: Hashes


def _repeats(stretches: list[_Stretch], groups: Hashes, order: Places, most: int) -> Repeats:
    # By their places among all rows: which rank looked at them is no matter.
    sequence = np.argsort(order, kind="stable")
    distinct, which, counts = np.unique(groups, return_inverse=True, return_counts=True)
    member = np.empty(len(groups), dtype=np.int64)
    member[sequence] = _numbered(which[sequence])
    of = counts[which]
    many = (of > most) & (groups != NOTHING)
    surplus = int((counts[(counts > most) & (distinct != NOTHING)] - most).sum())
    members: dict[str, list[_Members]] = {}
    start = 0
    for stretch in stretches:
        here = slice(start, start + len(stretch.hashes))
        start += len(stretch.hashes)
        chosen = np.flatnonzero(many[here])
        if len(chosen):
            rows = _Members(stretch.index[chosen], member[here][chosen], of[here][chosen], groups[here][chosen])
            members.setdefault(stretch.shard, []).append(rows)
    digest = hashlib.sha256(groups[sequence].tobytes()).hexdigest()[:16]
    return Repeats(most, surplus, digest, {shard: _joined(rows) for shard, rows in members.items()})


def _joined(rows: list[_Members]) -> _Members:
    index, member, of, group = (
        np.concatenate([getattr(part, name) for part in rows]) for name in ("index", "member", "of", "group")
    )
    order = np.argsort(index, kind="stable")
    return _Members(index[order], member[order], of[order], group[order])


def _numbered(which: npt.NDArray[np.int64]) -> Places:
    """For each entry how many equal ones come before it."""
    order = np.argsort(which, kind="stable")
    sorted_ = which[order]
    starts = np.flatnonzero(np.r_[True, sorted_[1:] != sorted_[:-1]]) if len(sorted_) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(sorted_)])
    found = np.empty(len(which), dtype=np.int64)
    found[order] = np.arange(len(which)) - np.repeat(starts, lengths)
    return found


def _grouped(hashes: Hashes, config: DataConfig) -> Hashes:
    """The hash of the group of each row, by ``config.groups``."""
    if config.groups is None:
        return hashes
    table = group_table(config.groups)
    known = np.array([_short(content) for content in table], dtype=np.uint64)
    names = np.array([_short(group) for group in table.values()], dtype=np.uint64)
    order = np.argsort(known)
    known, names = known[order], names[order]
    if not len(known):
        return hashes
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.where(known[places] == hashes, names[places], hashes)


def _hashed(source: Source, config: DataConfig, rank: int, world_size: int) -> Iterator[_Stretch]:
    """This rank's share of the parts: every so-manyth of them."""
    share = range(rank, len(source), world_size)
    if source.indexed:
        yield from _of_rows(source, share, config)
        return
    began = said = time.monotonic()
    for done, part in enumerate(share, 1):
        index, hashes = _of_part(cast("Shards", source), part, config)
        if len(index):
            yield _Stretch(source.identity[part], part * _FAR + index, index, hashes)
        now = time.monotonic()
        if done < len(share) and now - said > _SAY_AFTER:
            said, rest = now, (now - began) / done * (len(share) - done)
            _log.warning("data.repeats: hashed %d of %d shards, about %.0f s left", done, len(share), rest)


def _of_rows(source: Source, share: range, config: DataConfig) -> Iterator[_Stretch]:
    """Where every part is a row."""
    rows: dict[str, list[tuple[int, int, int]]] = {}
    for part in share:
        for raw in source.read(part):
            rows.setdefault(raw.shard, []).append((part, raw.index, _hash(raw, config)))
    for shard, mine in rows.items():
        order, index, hashes = zip(*mine, strict=True)
        yield _Stretch(shard, np.array(order, np.int64), np.array(index, np.int64), np.array(hashes, np.uint64))


def _of_part(source: Shards, part: int, config: DataConfig) -> tuple[Places, Hashes]:
    """The rows of a shard: as a keep-list's audit has hashed them, or as they are hashed now."""
    if isinstance(source, KeptSource) and config.group_by == "content":
        rows = source.rows_of(part)
        kept = np.flatnonzero(rows.keep)
        return kept.astype(np.int64), rows.content[kept]
    return _of_shard(source, part, config)


def _of_shard(source: Shards, part: int, config: DataConfig) -> tuple[Places, Hashes]:
    """Rows of a shard, hashed now or found as they were hashed before."""
    kept = _cache_file(source.identity[part], config)
    if kept is not None and kept.is_file():
        saved = np.load(kept, allow_pickle=False)
        return saved[0].astype(np.int64), saved[1]
    by_key = config.group_by == "key"
    rows = [(raw.index, _hash(raw, config)) for raw in source.read(part, bodies=not by_key)]
    index = np.array([place for place, _ in rows], dtype=np.uint64)
    hashes = np.array([value for _, value in rows], dtype=np.uint64)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_name(f".{kept.name}.{os.getpid()}")
        with unfinished.open("wb") as file:
            np.save(file, np.stack([index, hashes]))
        unfinished.replace(kept)
    return index.astype(np.int64), hashes


def _cache_file(shard: str, config: DataConfig) -> Path | None:
    """Where the hashes of a shard on disk are kept, by its path, size and time, and by what is hashed."""
    if "://" in shard or shard.startswith("pipe:"):
        return None
    found = os.stat(shard)
    stamp = f"{Path(shard).resolve()} {found.st_size} {found.st_mtime_ns} {config.image_key} {config.group_by}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memsieve" / "repeats"
    return folder / f"{hashlib.sha256(stamp.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npy"


def _hash(raw: Any, config: DataConfig) -> int:
    if config.group_by == "key":
        return int.from_bytes(hashlib.sha256(raw.key.encode("utf-8", "surrogateescape")).digest()[:8], "big")
    return NOTHING if raw.error is not None else _short(content_id(raw.image))


def _short(content: str) -> int:
    """64 bits of a content id, or of another name."""
    try:
        return int(content[:16], 16)
    except ValueError:
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big")


def _drawn(seed: int, group: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{group}/repeats".encode()).digest()[:8], "big")
