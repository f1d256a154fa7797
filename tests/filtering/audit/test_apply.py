"""Shards written anew by a keep-list, their bytes as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from memsieve.filtering.audit.apply import apply_keep_list
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.keep_lists import kept_list, members

Audit = Callable[..., Outcome]


def test_apply_copies_bytes_and_sets_the_rest_aside(audit: Audit, mixed: Path, tmp_path: Path) -> None:
    before = {path.name: members(path) for path in sorted(mixed.glob("*.tar"))}
    keep = kept_list(audit, mixed, tmp_path)
    done = apply_keep_list(keep, tmp_path / "clean")
    assert (done.kept, dict(done.rejected), done.shards) == (24, {"duplicate": 8, "no_caption": 1}, 4)
    listed = pq.read_table(keep).to_pylist()
    for name, old in before.items():
        kept, away = members(tmp_path / "clean" / name), {}
        if (tmp_path / "clean" / "rejected" / name).exists():
            away = members(tmp_path / "clean" / "rejected" / name)
            reasons = (tmp_path / "clean" / "rejected" / name).with_suffix(".jsonl").read_text().splitlines()
            wanted = [row for row in listed if row["shard"].endswith(name) and not row["keep"]]
            assert [json.loads(line)["key"] for line in reasons] == [row["key"] for row in wanted]
            assert all(json.loads(line)["detail"] == row["detail"] for line, row in zip(reasons, wanted, strict=True))
        assert {**kept, **away} == old and len(kept) + len(away) == len(old)
        assert list(kept) == [member for member in old if member in kept], "order is kept"
        names = {row["key"] for row in listed if row["shard"].endswith(name) and row["keep"]}
        assert {member.split(".")[0] for member in kept} == names
    assert json.loads((tmp_path / "clean" / "manifest.json").read_text())["kept"] == 24
    again = apply_keep_list(keep, tmp_path / "clean")
    assert (again.kept, again.shards, again.skipped) == (24, 0, 4)


def test_apply_refuses_what_changed(
    audit: Audit, mixed: Path, tmp_path: Path, make_shards: Callable[..., Path]
) -> None:
    keep = kept_list(audit, mixed, tmp_path)
    make_shards(tmp_path / "other", 8, per_shard=8, first=900)
    (mixed / "00002.tar").write_bytes((tmp_path / "other" / "00000.tar").read_bytes())
    with pytest.raises(SettingsError, match=r"00002.tar.*is not what was audited"):
        apply_keep_list(keep, tmp_path / "clean")
    assert not (tmp_path / "clean" / "00002.tar").exists()
    with pytest.raises(SettingsError, match="already holds shards"):
        apply_keep_list(keep, mixed)
