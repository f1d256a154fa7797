"""Keep-lists: which row is kept, found by the end of a shard's path, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memsieve.filtering.data.keep_list import KEEP_SCHEMA, METADATA, KeepList
from memsieve.filtering.data.rows import RawRow, content_id
from memsieve.filtering.settings import SettingsError

IMAGES = [b"one", b"two", b"three", b"four"]


def write(path: Path, shards: list[str], format: str = "webdataset", **columns: list[Any]) -> Path:
    """Rows by turns of ``shards``, of which the second one is not kept."""
    rows: dict[str, list[Any]] = {name: [None] * 4 for name in KEEP_SCHEMA.names}
    rows |= {"shard": [shards[i % len(shards)] for i in range(4)], "key": list("abcd"), "part": list(range(4))}
    rows |= {"index": [i // len(shards) for i in range(4)], "sha256": [content_id(i) + "0" * 32 for i in IMAGES]}
    rows |= {"keep": [True, False, True, True], "reason": [None, "score", None, None]} | columns
    about = {"format": 1, "data": {"format": format}, "rule": {}}
    table = pa.table(rows, schema=KEEP_SCHEMA.with_metadata({METADATA: json.dumps(about)}))
    pq.write_table(table, path)
    return path


def test_rows_reasons_and_the_image_that_was_audited(tmp_path: Path) -> None:
    keep = KeepList(write(tmp_path / "k.parquet", ["/data/0.tar", "/data/1.tar"]))
    assert keep.sharded and keep.shards == ["/data/0.tar", "/data/1.tar"] and keep.kept == 3
    rows = keep.rows("/data/1.tar")
    assert [keep.reason(rows, place) for place in (0, 1)] == ["score", None]
    same = RawRow("d", "/data/1.tar", 1, IMAGES[3], "x")
    assert keep.check(rows, 1, same) is same
    other = keep.check(rows, 1, RawRow("d", "/data/1.tar", 1, b"another", "x"))
    assert other.error is not None and "not the one that was audited" in other.error and not other.image
    broken = RawRow("d", "/data/1.tar", 1, error="broken")
    assert keep.check(rows, 1, broken) is broken, "what cannot be read says so itself"


def test_a_shard_that_was_moved_is_found_by_the_end_of_its_path(tmp_path: Path) -> None:
    keep = KeepList(write(tmp_path / "k.parquet", ["/old/a/0.tar", "/old/b/0.tar"]))
    assert keep.rows("s3://new/b/0.tar") is keep.rows("/old/b/0.tar")
    with pytest.raises(SettingsError, match=r"shard '/new/0.tar' could be any of 2 shards"):
        keep.rows("/new/0.tar")
    with pytest.raises(SettingsError, match=r"'/new/7.tar' is not in the audit"):
        keep.rows("/new/7.tar")


def test_rows_of_a_source_without_shards(tmp_path: Path) -> None:
    keep = KeepList(write(tmp_path / "k.parquet", ["set"], format="hf"))
    assert not keep.sharded and keep.shards == [] and keep.rows().keep.tolist() == [True, False, True, True]


def test_the_hash_follows_what_is_kept_and_what_was_audited(tmp_path: Path) -> None:
    shards = ["/data/0.tar"]
    hashes = {
        KeepList(write(tmp_path / f"{i}.parquet", shards, **columns)).hash
        for i, columns in enumerate([{}, {}, {"keep": [True] * 4}, {"sha256": [content_id(b"x")] * 4}])
    }
    assert len(hashes) == 3


def test_files_that_are_no_keep_lists(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist; 'memsieve audit select' writes it"):
        KeepList(tmp_path / "none.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(SettingsError, match=r"data.keep_list = '.*' is not a keep-list"):
        KeepList(tmp_path / "other.parquet")
    with pytest.raises(SettingsError, match="the list = .* lacks rows of its audit"):
        KeepList(write(tmp_path / "cut.parquet", ["/data/0.tar"], index=[0, 1, 3, 4]), "the list")
