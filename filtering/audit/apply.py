"""``memsieve audit apply``: shards without what a keep-list takes out, their bytes copied as they are."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pyarrow.parquet as pq

from memsieve.filtering.data.archives import open_archive, open_tar
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.fields import printable
from memsieve.filtering.data.keep_list import KeepList
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.files import write_json, write_whole
from memsieve.filtering.settings import SettingsError

__all__ = ["Applied", "apply_keep_list"]

_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(slots=True)
class Applied:
    """What was written: samples kept, samples set aside by reason, shards done now and before."""

    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    """Of the rejected: cut off in their shard, so that there are no bytes to set aside."""
    shards: int = 0
    skipped: int = 0


def apply_keep_list(keep_list: Path, out: Path, note: Callable[[int, int], None] | None = None) -> Applied:
    """Write the shards that ``keep_list`` was made of anew into ``out``: kept samples under the shard's own name,
    the others to ``rejected/`` beside a ``.jsonl`` of reasons, and ``manifest.json``.

    Headers and contents of members are copied byte by byte, in their order; compressed shards are written
    uncompressed. A shard that keeps nothing is written too, so that the list of shards stays what it was. Shards that
    are there from the same keep-list are not written again.

    Args:
        note: told of shards done, and of how many.

    Raises:
        SettingsError: the keep-list is not one of shards, ``out`` holds something else, or a shard is not the one
            that was audited.
    """
    keep = KeepList(keep_list, "the keep-list")
    if not keep.sharded:
        raise SettingsError(
            f"'{keep_list}' was made of data.format = '{keep.about['data']['format']}', which has no shards to write; "
            "use it in training with data.keep_list"
        )
    config = DataConfig.model_validate({**keep.about["data"], "keep_list": None})
    names = _names(keep.shards)
    _prepare(out, keep, keep_list)
    details = _details(keep_list)
    total = Applied()
    manifest: list[dict[str, Any]] = []
    for number, (shard, name) in enumerate(names.items()):
        record = _record(out, name, keep)
        if record is None:
            record = _Shard(keep, config, shard, out, name, details).write()
            total.shards += 1
        else:
            total.skipped += 1
        manifest.append(record)
        total.kept += record["kept"]
        total.rejected.update(record["rejected"])
        total.lost += record["lost"]
        if note is not None:
            note(number + 1, len(names))
    values = {"keep_list": str(keep_list), "hash": keep.hash, "rule": keep.about["rule"], "kept": total.kept}
    values |= {"rejected": dict(total.rejected), "lost": total.lost, "shards": manifest}
    write_json(out / "manifest.json", values)
    return total


def _details(keep_list: Path) -> dict[tuple[str, int], str]:
    """What the keep-list says of each row that is not kept, in words."""
    away = pq.read_table(keep_list, columns=["shard", "index", "detail"], filters=[("keep", "==", False)])
    columns = (away[name].to_pylist() for name in ("shard", "index", "detail"))
    return {(shard, index): detail or "" for shard, index, detail in zip(*columns, strict=True)}


def _names(shards: list[str]) -> dict[str, str]:
    """Where each shard goes below the output folder: its own name, with folders where names repeat."""
    plain = {shard: shard.removeprefix("pipe:").strip() for shard in shards}
    if any(shard.startswith("pipe:") for shard in shards):
        return {shard: f"{number:05d}.tar" for number, shard in enumerate(shards)}
    ends = {shard: name.rpartition("/")[2] for shard, name in plain.items()}
    if len(set(map(_stem, ends.values()))) < len(ends):
        whole = [name if "://" in name else os.path.abspath(name) for name in plain.values()]
        common = os.path.commonpath([os.path.dirname(name) for name in whole])
        ends = {shard: os.path.relpath(name, common) for shard, name in zip(shards, whole, strict=True)}
    return {shard: f"{_stem(name)}.tar" for shard, name in ends.items()}


def _stem(name: str) -> str:
    for suffix in (".gz", ".bz2", ".xz", ".tgz"):
        name = name.removesuffix(suffix)
    return name.removesuffix(".tar")


def _prepare(out: Path, keep: KeepList, keep_list: Path) -> None:
    mark = out / "manifest.json"
    begun = out / ".keep-list"
    if begun.is_file():
        if begun.read_text() != keep.hash:
            raise SettingsError(f"--out '{out}' holds the shards of another keep-list; name another folder")
    elif out.is_dir() and (mark.exists() or any(out.glob("*.tar"))):
        raise SettingsError(f"--out '{out}' already holds shards; name an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(begun, keep.hash)


def _record(out: Path, name: str, keep: KeepList) -> dict[str, Any] | None:
    """What was written of a shard before; None where it was not, or not to its end."""
    try:
        record = json.loads((out / ".done" / f"{name}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    files = [out / name] + [out / "rejected" / name] * bool(record["rejected"])
    sizes = [file.stat().st_size if file.is_file() else -1 for file in files]
    return cast("dict[str, Any]", record) if sizes == record["bytes"] else None


class _Shard:
    """Writes one shard's kept and rejected samples."""

    def __init__(
        self,
        keep: KeepList,
        config: DataConfig,
        shard: str,
        out: Path,
        name: str,
        details: dict[tuple[str, int], str],
    ) -> None:
        self.details = details
        self.keep, self.config, self.shard, self.name = keep, config, shard, name
        self.kept_path, self.rejected_path = out / name, out / "rejected" / name
        self.done_path = out / ".done" / f"{name}.json"
        self.rows = keep.rows(shard)
        self.kept, self.lost, self.read = 0, 0, 0
        self.rejected: Counter[str] = Counter()
        self._reasons: list[str] = []

    def write(self) -> dict[str, Any]:
        """Copy the samples; the record of the shard for the manifest."""
        for path in (self.kept_path, self.rejected_path, self.done_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            # Raised errors leave no file behind under its own name.
            kept, rejected = (stack.enter_context(_Archive(p)) for p in (self.kept_path, self.rejected_path))
            source = stack.enter_context(open_archive(self.shard, self.config.allow_pipe))
            self._copy(source, kept, rejected)
            if self.read != len(self.rows.keep):
                raise SettingsError(
                    f"shard '{self.shard}' has {self.read} samples, but {len(self.rows.keep)} were audited; audit it "
                    "again"
                )
        sizes = [self.kept_path.stat().st_size]
        if self.rejected:
            sizes.append(self.rejected_path.stat().st_size)
            write_whole(self.rejected_path.with_suffix(".jsonl"), "".join(self._reasons))
        else:
            self.rejected_path.unlink()
        record = {
            "shard": printable(self.shard), "name": self.name, "kept": self.kept, "rejected": dict(self.rejected),
            "lost": self.lost, "bytes": sizes,
        }  # fmt: skip
        write_whole(self.done_path, json.dumps(record) + "\n")
        return record

    def _copy(self, source: IO[bytes], kept: _Archive, rejected: _Archive) -> None:
        plain: Any = None
        for raw in read_shard(self.shard, self.config):
            self._same(raw)
            reason = self.keep.reason(self.rows, raw.index)
            if reason is not None:
                self.rejected[reason] += 1
                detail = self.details.get((self.shard, raw.index), "")
                line = {"index": raw.index, "key": raw.key, "reason": reason, "detail": detail}
                self._reasons.append(json.dumps(line) + "\n")
            else:
                self.kept += 1
            if raw.span[1] <= raw.span[0]:
                self.lost += 1
                continue
            if plain is None:
                # Spans are of the uncompressed archive.
                plain = open_tar(source).fileobj
            (kept if reason is None else rejected).copy(plain, *raw.span)

    def _same(self, raw: RawRow) -> None:
        """Refuse a shard that is not the one that was audited."""
        self.read += 1
        if raw.index < len(self.rows.keep):
            kept = bool(self.rows.keep[raw.index])
            if self.keep.check(self.rows, raw.index, raw) is raw and not (kept and raw.error is not None):
                return
        raise SettingsError(
            f"shard '{self.shard}': sample {raw.index} ('{raw.key}') is not what was audited; audit it again"
        )


class _Archive:
    """A tar file made of pieces of another one; appears under its name where nothing was raised."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> _Archive:
        self.file = self.temporary.open("wb")
        return self

    def copy(self, source: IO[bytes], start: int, end: int) -> None:
        """Append bytes [start, end) of ``source``."""
        source.seek(start)
        left = end - start
        while left:
            block = source.read(min(left, 2**20))
            if not block:
                raise SettingsError(f"'{self.path.name}': the shard ended while it was copied; audit it again")
            self.file.write(block)
            left -= len(block)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.file.write(_END)
                # Whole records of 20 blocks, as tar writes them.
                self.file.write(bytes(-self.file.tell() % tarfile.RECORDSIZE))
                self.file.flush()
                os.fsync(self.file.fileno())
            self.file.close()
            if kind is None:
                shutil.move(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)
