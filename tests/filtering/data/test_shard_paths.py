"""Which shard files a path means."""

from __future__ import annotations

from pathlib import Path

import pytest

from memsieve.filtering.data.shard_paths import expand_paths
from memsieve.filtering.settings import SettingsError


class TestExpandPaths:
    def test_ranges_globs_folders_and_joins(self, tmp_path: Path) -> None:
        for name in ("a-000", "a-001", "a-002", "b-000"):
            (tmp_path / f"{name}.tar").write_bytes(b"x")
        (tmp_path / "notes.txt").write_bytes(b"x")
        a0, a1, a2, b0 = (str(tmp_path / f"{name}.tar") for name in ("a-000", "a-001", "a-002", "b-000"))
        assert expand_paths(f"{tmp_path}/a-{{000..001}}.tar") == [a0, a1]
        assert expand_paths(f"{tmp_path}/a-*.tar") == [a0, a1, a2]
        assert expand_paths(str(tmp_path)) == [a0, a1, a2, b0]
        assert expand_paths(f"{b0}::{tmp_path}/a-{{001..002}}.tar") == [b0, a1, a2]
        assert expand_paths([b0, f"{tmp_path}/a-00[12].tar"]) == [b0, a1, a2]
        assert expand_paths("memory://bucket/{0..1}.tar") == ["memory://bucket/0.tar", "memory://bucket/1.tar"]

    def test_a_file_named_like_a_pattern_is_that_file(self, tmp_path: Path) -> None:
        (tmp_path / "odd[1].tar").write_bytes(b"x")
        assert expand_paths(str(tmp_path / "odd[1].tar")) == [str(tmp_path / "odd[1].tar")]

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("pipe:cat x.tar", "data.path = 'pipe:cat x.tar': 'pipe:' would run a command"),
            ("no/such-{0..3}.tar", "data.path = 'no/such-{0..3}.tar': nothing is found at 'no/such-0.tar'"),
            ("no/such-*.tar", "nothing is found at 'no/such-*.tar'"),
            ("{0..3.tar", "data.path = '{0..3.tar'"),
            ("", "data.path = '' names no shards"),
            ([], r"data.path = [] names no shards"),
        ],
    )
    def test_refusals_name_option_and_value(self, path: str | list[str], message: str) -> None:
        with pytest.raises(SettingsError) as caught:
            expand_paths(path)
        assert message in str(caught.value)

    def test_one_missing_shard_of_a_range_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "0.tar").write_bytes(b"x")
        with pytest.raises(SettingsError, match="nothing is found at '.*1.tar'"):
            expand_paths(f"{tmp_path}/{{0..1}}.tar")

    def test_empty_folder_and_empty_shard(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="holds no"):
            expand_paths(str(tmp_path))
        (tmp_path / "0.tar").touch()
        with pytest.raises(SettingsError, match="data.held_out_path: shard '.*0.tar' has 0 bytes"):
            expand_paths(str(tmp_path), option="data.held_out_path")
