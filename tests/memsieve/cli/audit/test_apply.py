"""``memsieve audit apply``: what is said of the samples that were copied, set aside, and lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.memsieve.auditing import run, said
from tests.train.conftest import write_shards


def kept_list(tmp_path: Path, data: Path, code: int = 0) -> Path:
    audit, keep = tmp_path / "audit", tmp_path / "keep.parquet"
    assert run("score", "--data", data, "--data-only", "--out", audit).exit_code == code
    assert run("select", audit, "--dedup", "--out", keep).exit_code == 0
    return keep


def test_what_is_kept_and_what_is_set_aside_is_said_each_time(tmp_path: Path) -> None:
    keep = kept_list(tmp_path, write_shards(tmp_path / "data", 4, per_shard=4, copies=3))
    for _ in range(2):  # the second time it is all there
        result = run("apply", keep, "--out", tmp_path / "clean")
        assert result.exit_code == 0, result.output
        assert f"4 samples kept in '{tmp_path / 'clean'}'; set aside: 3 duplicate" in said(result)
        assert "cut off" not in said(result)
    assert {path.name for path in (tmp_path / "clean").glob("*.tar")} == {"00000.tar", "00001.tar"}


def test_where_nothing_is_set_aside_none_is_said(tmp_path: Path) -> None:
    result = run("apply", kept_list(tmp_path, write_shards(tmp_path / "data", 2)), "--out", tmp_path / "clean")
    assert "2 samples kept in" in said(result) and "set aside: none" in said(result)


def test_samples_that_were_cut_off_have_no_bytes_and_that_is_said(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 4)
    shard = data / "00000.tar"
    shard.write_bytes(shard.read_bytes()[:-12_000])
    result = run("apply", kept_list(tmp_path, data, code=3), "--out", tmp_path / "clean")
    assert result.exit_code == 0, result.output
    assert "1 of these were cut off in their shard and have no bytes to copy" in said(result)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("apply", "nowhere.parquet", "--out", "o")
    assert isinstance(result.exception, ValueError) and "does not exist" in str(result.exception)
