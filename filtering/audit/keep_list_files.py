"""The files that a keep-list is written to, row by row as it is decided."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from memsieve.filtering.audit.select import Selection
from memsieve.filtering.data.keep_list import KEEP_SCHEMA, METADATA
from memsieve.filtering.settings import SettingsError

__all__ = ["write_selection"]

_UID: Final = re.compile(r"^[0-9a-fA-F]{32}$")
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def write_selection(selection: Selection, out: Path) -> None:
    """Write a keep-list by the suffix of ``out``, whole or not at all.

    ``.parquet``: all rows with reasons, what ``audit apply`` and ``data.keep_list`` read. ``.txt``: shard, index and
    key of the kept rows, tab-separated, with backslash escapes. ``.npy``: DataComp's sorted ``u8,u8`` array of the
    kept rows' 128-bit uids, as its resharder reads it.

    Raises:
        SettingsError: another suffix; or ``.npy`` and not every kept row has a uid of 32 hexadecimal digits.
    """
    writers = {".parquet": _parquet, ".txt": _text, ".npy": _uids}
    if out.suffix not in writers:
        raise SettingsError(f"--out '{out}' must end in .parquet, .txt or .npy")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _whole(out) as temporary:
        writers[out.suffix](selection, temporary, out)


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A name to write under, which becomes ``out`` where nothing was raised."""
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        yield temporary
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _parquet(selection: Selection, temporary: Path, out: Path) -> None:
    schema = KEEP_SCHEMA.with_metadata({METADATA: json.dumps(selection.about).encode()})
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in selection.batches():
            writer.write_batch(batch)


def _kept(selection: Selection) -> Iterator[pa.RecordBatch]:
    return (batch.filter(batch.column("keep")) for batch in selection.batches())


def _text(selection: Selection, temporary: Path, out: Path) -> None:
    with temporary.open("w", encoding="utf-8") as file:
        for kept in _kept(selection):
            rows = zip(*(kept.column(name).to_pylist() for name in ("shard", "index", "key")), strict=True)
            file.writelines(
                f"{shard.translate(_ESCAPES)}\t{index}\t{key.translate(_ESCAPES)}\n" for shard, index, key in rows
            )


def _uids(selection: Selection, temporary: Path, out: Path) -> None:
    halves, rows, without = [], 0, 0
    for kept in _kept(selection):
        uids = kept.column("uid")
        good = pc.fill_null(pc.match_substring_regex(uids, _UID.pattern), False)
        rows, without = rows + len(uids), without + len(uids) - int(pc.sum(good).as_py() or 0)
        if not without and len(uids):
            digits = np.frombuffer(bytes.fromhex("".join(uids.to_pylist())), dtype=">u8")
            halves.append(digits.astype(np.uint64).reshape(-1, 2))
    if without:
        raise SettingsError(
            f"--out '{out}': {without} of {rows} kept samples have no 'uid' of 32 hexadecimal digits in their json; "
            "write .parquet or .txt instead"
        )
    pairs = np.concatenate(halves) if halves else np.zeros((0, 2), np.uint64)
    found = np.empty(len(pairs), dtype=np.dtype("u8,u8"))
    found["f0"], found["f1"] = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].T
    with temporary.open("wb") as file:
        np.save(file, found)
