"""One shard written anew by a keep-list."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from memsieve.filtering.audit.apply import apply_keep_list
from memsieve.filtering.audit.score import Outcome
from tests.filtering.audit.keep_lists import kept_list, members

Audit = Callable[..., Outcome]


@pytest.mark.parametrize("compression", ["gz", "xz"])
def test_apply_reads_compressed_shards(audit: Audit, mixed: Path, tmp_path: Path, compression: str) -> None:
    (tmp_path / "packed").mkdir()
    old = members(mixed / "00000.tar")
    with (
        tarfile.open(mixed / "00000.tar") as tar,
        tarfile.open(tmp_path / "packed" / f"00000.tar.{compression}", f"w:{compression}") as packed,
    ):
        for info in tar:
            packed.addfile(info, tar.extractfile(info))
    keep = kept_list(audit, tmp_path / "packed" / f"00000.tar.{compression}", tmp_path)
    apply_keep_list(keep, tmp_path / "clean")
    away = tmp_path / "clean" / "rejected" / "00000.tar"
    assert members(tmp_path / "clean" / "00000.tar") | (members(away) if away.exists() else {}) == old
