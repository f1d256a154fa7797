"""The row of a sample, and a file of rows that is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from memsieve.filtering.audit.records import (
    ROWS_PER_GROUP,
    SCORES_SCHEMA,
    RowWriter,
    content_of,
    describe_image,
    new_record,
)
from memsieve.filtering.data.rows import RawRow, content_id
from tests.filtering.audit.written import row


def test_a_usable_sample_has_its_hashes_and_one_that_is_not_has_none() -> None:
    record = new_record(RawRow("k", "s\udcff", 3, b"image", "a cat", {"uid": "0" * 32}), part=7)
    assert record.keys() == set(SCORES_SCHEMA.names)
    assert record["sha256"] == hashlib.sha256(b"image").hexdigest()
    assert content_of(record["sha256"]) == content_id(b"image")
    assert record["caption_hash"] == hashlib.sha256(b"a cat").hexdigest()[:32]
    assert (record["shard"], record["index"], record["part"], record["uid"]) == ("s\\udcff", 3, 7, "0" * 32)
    broken = new_record(RawRow("k", "s", 0, error="broken", status="bad_image"), part=0)
    assert (broken["status"], broken["error"], broken["sha256"], broken["caption"]) == (
        "bad_image",
        "broken",
        None,
        None,
    )


@pytest.mark.parametrize("uid", [7, "x" * 65, "a\nb"])
def test_a_uid_is_short_text_or_nothing(uid: object) -> None:
    assert new_record(RawRow("k", "s", 0, b"i", "x", {"uid": uid}), 0)["uid"] is None


def test_size_and_look_of_an_image() -> None:
    record = row("a")
    describe_image(record, Image.radial_gradient("L").resize((48, 32)))
    assert (record["width"], record["height"]) == (48, 32) and len(record["phash"]) == 16


def test_rows_are_written_in_groups_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with RowWriter(path, {"memsieve.task": "t"}) as writer:
        for start in range(0, ROWS_PER_GROUP + 10, 10):
            writer.add([row("a", index=start + i) for i in range(10)])
        assert not path.exists()
    file = pq.ParquetFile(path)
    assert writer.count == file.metadata.num_rows >= ROWS_PER_GROUP + 6 and file.num_row_groups == 2
    assert file.read()["index"].to_pylist() == list(range(writer.count))
    assert file.schema_arrow.metadata[b"memsieve.task"] == b"t"
    with RowWriter(path, {}):
        pass
    assert pq.read_table(path).num_rows == 0, "a shard without samples has a file too"


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with RowWriter(path, {}) as writer:
        writer.add([row("a")])
    (tmp_path / f".{path.stem}.killed-1.tmp").write_bytes(b"half")
    with pytest.raises(TypeError), RowWriter(path, {}) as writer:
        writer.add([row("b")] * ROWS_PER_GROUP + [None] * ROWS_PER_GROUP)  # type: ignore[list-item]
    assert pq.read_table(path)["key"].to_pylist() == ["a"]
    assert os.listdir(tmp_path) == ["scores.parquet"]


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    """Two ranks, or two runs of which one does not know of the other, may be at the same shard."""
    path = tmp_path / "scores.parquet"
    with RowWriter(path, {}) as first:
        first.add([row("a")])
        with RowWriter(path, {}) as second:
            assert first.temporary.exists() and second.temporary.exists() and first.temporary != second.temporary
            second.add([row("b"), row("c")])
        assert pq.read_table(path)["key"].to_pylist() == ["b", "c"] and first.temporary.exists()
    assert pq.read_table(path)["key"].to_pylist() == ["a"], "the last to finish, whole"
    assert os.listdir(tmp_path) == ["scores.parquet"]


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    path, code = tmp_path / "scores.parquet", (
        "import os, signal, sys; from pathlib import Path; from memsieve.filtering.audit.records import RowWriter\n"
        "with RowWriter(Path(sys.argv[1]), {}):\n    os.kill(os.getpid(), signal.SIGKILL)"
    )  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    [leftover] = tmp_path.iterdir()
    with RowWriter(path, {}):
        assert not leftover.exists()
