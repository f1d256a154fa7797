"""A planted dataset on disk: the stream, what dedup and the truth leave of it, held-out pairs, and who is who."""

from __future__ import annotations

import fcntl
import io
import json
import math
import shutil
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

__all__ = ["build_once", "clusters", "first_of"]

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
                truth.append({"part": part, "key": key, "group": content_id(row.png), "pair": row.pair,
                              "case": row.case, "repeats": row.repeats, "caption": row.caption,
                              "prompt": row.prompt, "base": row.base})  # fmt: skip
    return truth
