"""Keep-lists: which rows of a source an audit chose to keep, and why the others are not."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.data.rows import RawRow, content_id
from memsieve.filtering.settings import SettingsError

__all__ = ["KEEP_SCHEMA", "METADATA", "NO_ROWS", "KeepList", "KeptRows"]

METADATA: Final = b"memsieve.keep_list"
"""Where a keep-list says what it was made of, as JSON: ``format`` and ``data`` of the audit, ``rule``."""

KEEP_SCHEMA: Final = pa.schema(
    [
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("key", pa.string()),
        ("part", pa.int64()),
        ("uid", pa.string()),
        ("sha256", pa.string()),
        ("status", pa.string()),
        ("score", pa.float64()),
        ("keep", pa.bool_()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""One row per sample of the audit, kept or not, in the audit's order; ``reason`` is one word, null where kept."""


@dataclass(frozen=True, slots=True)
class KeptRows:
    """What a keep-list says of the rows of one shard, by their index, or of a whole source without shards, by position:
    kept or not, a number for the reason, 64 bits of the content; each [N]."""

    keep: np.ndarray[Any, np.dtype[np.bool_]]
    reason: np.ndarray[Any, np.dtype[np.int16]]
    content: np.ndarray[Any, np.dtype[np.uint64]]


NO_ROWS: Final = KeptRows(np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.int16), np.zeros(0, dtype=np.uint64))


class KeepList:
    """A keep-list in memory: about 11 bytes per row.

    Args:
        path: the Parquet file that ``memsieve audit select`` wrote.

    Raises:
        SettingsError: it is not there, or is no keep-list; the message names ``option``.
    """

    def __init__(self, path: str | Path, option: str = "data.keep_list") -> None:
        self.path = str(path)
        columns = ["shard", "index", "part", "sha256", "keep", "reason"]
        try:
            table = pq.read_table(self.path, columns=columns)
            about = json.loads((table.schema.metadata or {})[METADATA])
        except FileNotFoundError:
            raise SettingsError(f"{option} = '{path}' does not exist; 'memsieve audit select' writes it") from None
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise SettingsError(
                f"{option} = '{path}' is not a keep-list of 'memsieve audit select' in Parquet: {error}"
            ) from None
        self.about: dict[str, Any] = about
        self.reasons: list[str] = []
        self._rows: dict[str, KeptRows] = {}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        reasons = table["reason"].combine_chunks().dictionary_encode()
        self.reasons = [str(reason) for reason in reasons.dictionary.to_pylist()]
        codes = reasons.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int16)
        keep = table["keep"].to_numpy()
        content = np.array([_short(sha) for sha in table["sha256"].to_pylist()], dtype=np.uint64)
        digest.update(keep.tobytes() + content.tobytes())
        self.hash = digest.hexdigest()[:16]
        self.sharded = about["data"]["format"] == "webdataset"
        if not self.sharded:
            self._check_order(table["part"].to_numpy(), option)
            self._rows[""] = KeptRows(keep, codes, content)
            return
        shards = table["shard"].combine_chunks().dictionary_encode()
        places = shards.indices.to_numpy(zero_copy_only=False)
        index = table["index"].to_numpy()
        order = np.argsort(places, kind="stable")
        ends = np.cumsum(np.bincount(places, minlength=len(shards.dictionary)))
        for name, rows in zip(shards.dictionary.to_pylist(), np.split(order, ends)[:-1], strict=True):
            self._check_order(index[rows], option)
            self._rows[name] = KeptRows(keep[rows], codes[rows], content[rows])

    def _check_order(self, numbers: np.ndarray[Any, Any], option: str) -> None:
        if not np.array_equal(numbers, np.arange(len(numbers))):
            raise SettingsError(f"{option} = '{self.path}' lacks rows of its audit; use the file as select wrote it")

    @property
    def shards(self) -> list[str]:
        """The shards of the audit, in order."""
        return list(self._rows) if self.sharded else []

    @property
    def kept(self) -> int:
        """Rows that are kept."""
        return sum(int(rows.keep.sum()) for rows in self._rows.values())

    def rows(self, shard: str = "") -> KeptRows:
        """The rows of one shard, by its path as audited, or where that is not found by the end of its path, as long
        as only one shard of the audit has it; of a whole source where there are no shards.

        Raises:
            SettingsError: the audit has no such shard.
        """
        found = self._rows.get(shard)
        if found is not None:
            return found
        parts = _parts(shard)
        best = 0
        matches: list[str] = []
        for name in self._rows:
            common = _common(parts, _parts(name))
            if common >= best and common:
                matches = [*matches, name] if common == best else [name]
                best = common
        if len(matches) != 1:
            what = "is not in" if not matches else f"could be any of {len(matches)} shards of"
            raise SettingsError(
                f"data.keep_list = '{self.path}': shard '{shard}' {what} the audit that it was made of; train on the "
                "shards that were audited, or audit these"
            )
        return self._rows[matches[0]]

    def reason(self, rows: KeptRows, place: int) -> str | None:
        """Why a row is not kept; None where it is."""
        if bool(rows.keep[place]):
            return None
        code = int(rows.reason[place])
        return self.reasons[code] if code >= 0 else "not kept"

    def check(self, rows: KeptRows, place: int, raw: RawRow) -> RawRow:
        """``raw``, or in its place a row with an error where it is not the one that was audited."""
        if raw.error is not None or _short(content_id(raw.image)) == rows.content[place]:
            return raw
        error = f"the image is not the one that was audited (data.keep_list = '{self.path}'); audit the data again"
        return replace(raw, image=b"", caption=None, error=error, status="bad_sample")


def _short(sha256: str | None) -> int:
    """64 bits of a content hash; 0 where the image was not read."""
    return int(sha256[:16], 16) if sha256 else 0


def _parts(path: str) -> list[str]:
    if "://" not in path and not path.startswith("pipe:"):
        path = os.path.abspath(path)
    return path.split("/")[::-1]


def _common(a: list[str], b: list[str]) -> int:
    """How many last parts of two paths are the same."""
    count = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        count += 1
    return count
