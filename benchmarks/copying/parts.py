"""A planted dataset on disk: the stream, what dedup and the truth leave of it, held-out pairs, and who is who."""

from __future__ import annotations

import fcntl
import io
import json
import math
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image

from benchmarks.common import write_numbers
from benchmarks.copying.samples import Row
from memsieve.filtering.data.openmoji import ATTRIBUTION
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.identity.phash import joined

__all__ = ["add_part", "build_once", "clusters", "first_of"]

KEPT: Final = ("pair", "case", "repeats", "caption", "prompt", "base")
"""Of a row, in its truth."""
PHASH_BITS: Final = 4
"""Perceptual hashes that differ in at most so many of 64 bits are one cluster."""


def build_once(
    out: Path, asked: dict[str, Any], rows_of: Callable[[], tuple[list[Row], list[Row]]], shards: int
) -> dict[str, Any]:
    """Write ``stream``, ``dedup``, ``dedup_phash``, ``oracle`` and ``held_out`` under ``out``, once, with
    ``truth.parquet``; returns what ``dataset.json`` says. Several processes may ask for it at once.

    Args:
        out: the folder.
        asked: all that the rows depend on; what was asked otherwise is built anew.
        rows_of: makes the rows of the stream and those held out.
        shards: of each part.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f"{out.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = json.loads(json.dumps(asked))
        file = out / "dataset.json"
        if file.is_file() and (known := json.loads(file.read_text()))["asked"] == wanted:
            return dict(known)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        parts = _parts(*rows_of())
        truth = [line for name, part in parts.items() for line in _write(out / name, name, part, shards)]
        pq.write_table(pa.Table.from_pylist(truth), out / "truth.parquet")
        (out / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")
        made = {"asked": wanted, "rows": {name: len(part) for name, part in parts.items()}}
        write_numbers(file, made)
        return made


def _parts(stream: list[Row], held_out: list[Row]) -> dict[str, list[Row]]:
    looks = clusters(stream)
    return {
        "stream": stream,
        "dedup": first_of(stream, lambda row: content_id(row.png)),
        "dedup_phash": first_of(stream, lambda row: looks[content_id(row.png)]),
        "oracle": first_of(stream, lambda row: row.pair),
        "held_out": held_out,
    }


def add_part(out: Path, part: str, name: Callable[[Row], str], shards: int) -> int:
    """Write of the stream in ``out`` the first row of each ``name`` as another part, and its truth; how many rows."""
    truth = [line for line in pq.read_table(out / "truth.parquet").to_pylist() if line["part"] != part]
    rows = first_of(_rows_in(out, "stream", truth), name)
    shutil.rmtree(out / part, ignore_errors=True)
    truth += _write(out / part, part, rows, shards)
    unfinished = out / ".truth.parquet"
    pq.write_table(pa.Table.from_pylist(truth), unfinished)
    unfinished.replace(out / "truth.parquet")
    return len(rows)


def _rows_in(out: Path, part: str, truth: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows of a part that is there, in its order."""
    of = {line["key"]: line for line in truth if line["part"] == part}
    found = []
    for shard in sorted((out / part).glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                if kind == "png" and (stream := tar.extractfile(member)) is not None:
                    line = of[key]
                    found.append(Row(png=stream.read(), **{name: line[name] for name in KEPT}))
    return found


def first_of(rows: Sequence[Row], name: Callable[[Row], str]) -> list[Row]:
    """The first row of each ``name``, in order."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(name(row), row)
    return list(found.values())


def clusters(rows: Sequence[Row]) -> dict[str, str]:
    """File -> cluster of perceptual hashes: a file joins the nearest earlier one that is near enough."""
    distinct = {content_id(row.png): row.png for row in rows}
    names = list(distinct)
    looks = [str(imagehash.phash(Image.open(io.BytesIO(png)).convert("RGB"))) for png in distinct.values()]
    first = joined(np.array([int(look, 16) for look in looks], dtype=np.uint64), PHASH_BITS, mirror=False)
    return {name: names[leader] for name, leader in zip(names, first.tolist(), strict=True)}


def _write(folder: Path, part: str, rows: Sequence[Row], shards: int) -> list[dict[str, Any]]:
    """Rows as WebDataset shards; returns their truth. Keys say nothing about what is planted."""
    folder.mkdir(parents=True)
    truth = []
    each = math.ceil(len(rows) / shards)
    for shard in range(shards):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar"), mtime=0) as tar:
            for number, row in list(enumerate(rows))[shard * each : (shard + 1) * each]:
                key = f"{part.replace('_', '-')}-{number:06d}"
                tar.write({"__key__": key, "png": row.png, "txt": row.caption})
                told = {name: getattr(row, name) for name in KEPT}
                truth.append({"part": part, "key": key, "group": content_id(row.png), **told})
    return truth
