"""Building an index over training shards: only what is missing or has changed is embedded again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.data.named import kind_of
from memsieve.filtering.data.shard_paths import expand_paths
from memsieve.filtering.files import write_json
from memsieve.filtering.settings import expand_home
from memsieve.inference.copies.index import TrainingIndex, read_description
from memsieve.inference.copies.pixels import pixel_chunks
from memsieve.inference.copies.similarity import Similarity, build_similarity
from memsieve.inference.progress import progress_bar

__all__ = ["build_index"]

SIDES: Final = {"pixel_l2": 32, "tiled_l2": 64, "phash": 256, "sscd": 288}
"""Pixels a side at which images are compared: the shorter side resized to it, the centre cropped."""
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("key", "shard", "group", "caption", "error")] + [("index", pa.int64())]
)


def build_index(
    shards: str | list[str],
    out: Path,
    *,
    similarity: str = "tiled_l2",
    options: dict[str, Any] | None = None,
    held_out: str | list[str] | None = None,
    chunk: int = 64,
    progress: bool = True,
) -> TrainingIndex:
    """Embed every image of ``shards`` (paths, globs, brace ranges, a folder of them), and those of ``held_out`` as a
    null. An image folder or a Hugging Face dataset on disk is embedded as one shard: whole, or not at all.

    Raises:
        ValueError: no shards, an unknown similarity, or ``out`` holds an index of another similarity.
    """
    kind = build_similarity(similarity, **(options or {}))
    side = SIDES.get(similarity, 256)
    paths = _paths(shards, "--data")
    out.mkdir(parents=True, exist_ok=True)
    described = {"similarity": similarity, "options": options or {}, "side": side}
    file = out / "index.json"
    before = read_description(file) if file.is_file() else {}
    if before and {name: before.get(name) for name in described} != json.loads(json.dumps(described)):
        raise ValueError(f"--out: '{out}' is an index with '{before.get('similarity')}' and its options; name another")
    known = {entry["path"]: entry for entry in before.get("shards", [])}
    entries = [{"path": path, "size": _size(path)} for path in paths]
    with progress_bar(progress) as bar:
        task = bar.add_task("shards", total=len(entries))
        for number, entry in enumerate(entries):
            name, old = f"{number:05d}", known.get(entry["path"])
            done = old is not None and old == {**entry, "name": name} and (out / f"{name}.npy").is_file()
            if not done:
                _embed_shard(str(entry["path"]), out, name, kind, side, chunk)
            entry["name"] = name
            bar.advance(task)
            # after every shard, so that a stopped build goes on with the next one
            write_json(file, {**described, "shards": entries[: number + 1], "complete": number + 1 == len(entries)})
    (out / "index.faiss").unlink(missing_ok=True)
    (out / "null.npy").unlink(missing_ok=True)
    index = TrainingIndex(out, kind)
    if held_out is not None:
        index.calibrate(_paths(held_out, "--held-out"), chunk, progress)
    return index


def _embed_shard(shard: str, out: Path, name: str, kind: Similarity, side: int, chunk: int) -> None:
    """Both files of one shard, each under a temporary name first; the embeddings, by which it counts as done, last."""
    rows: list[dict[str, Any]] = []
    embedded: list[npt.NDArray[np.float32]] = []
    for part, pixels in pixel_chunks(shard, side, chunk):
        rows += part
        if len(pixels):
            embedded.append(kind.embed(pixels).numpy())
    (out / f"{name}.npy").unlink(missing_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), out / f"{name}.parquet.new")
    os.replace(out / f"{name}.parquet.new", out / f"{name}.parquet")
    with (out / f"{name}.npy.new").open("wb") as stream:
        np.save(stream, np.concatenate(embedded) if embedded else np.empty((0, 0), np.float32))
    os.replace(out / f"{name}.npy.new", out / f"{name}.npy")


def _paths(named: str | list[str], option: str) -> list[str]:
    """The shards that are named; a folder of pictures, or a dataset on disk, is one."""
    found: list[str] = []
    for name in [named] if isinstance(named, str) else named:
        folder = Path(expand_home(name))
        one = folder.is_dir() and kind_of(folder) != "webdataset" and any(folder.iterdir())
        found += [str(folder)] if one else expand_paths(name, option)
    return found


def _size(path: str) -> int:
    """What changes where the data does: bytes of a shard; of a folder a number that its files' sizes and times make."""
    if Path(path).is_dir():
        files = sorted((str(file), file.stat()) for file in Path(path).rglob("*") if file.is_file())
        told = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files)
        return int.from_bytes(hashlib.blake2b(told.encode(errors="surrogateescape"), digest_size=6).digest(), "big")
    return -1 if "://" in path else os.path.getsize(path)
