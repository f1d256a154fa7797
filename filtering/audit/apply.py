"""``memsieve audit apply``: shards without what a keep-list takes out, their bytes copied as they are."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq

from memsieve.filtering.audit.shard_copy import Audited, ShardCopy
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.keep_list import KeepList
from memsieve.filtering.files import write_json, write_whole
from memsieve.filtering.settings import SettingsError

__all__ = ["Applied", "apply_keep_list"]


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
    names = _names(keep.shards)
    _prepare(out, keep, keep_list)
    audited = Audited(keep, DataConfig.model_validate({**keep.about["data"], "keep_list": None}), _details(keep_list))
    total = Applied()
    manifest: list[dict[str, Any]] = []
    for number, (shard, name) in enumerate(names.items()):
        record = _record(out, name, keep)
        if record is None:
            record = ShardCopy(audited, shard, out, name).write()
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
