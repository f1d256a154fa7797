"""Archives: what may be opened, what an error speaks of, and what tells two shards apart."""

from __future__ import annotations

import bz2
import io
import os
import tarfile
from pathlib import Path

import pytest

from memsieve.filtering.data.archives import check_protocol, is_damage, open_archive, open_tar, shard_identity
from memsieve.filtering.settings import SettingsError


def test_commands_run_only_where_they_are_allowed(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="allow it with --allow-pipe"):
        open_archive(f"pipe:touch {tmp_path}/made")
    assert not list(tmp_path.iterdir())
    with open_archive("pipe: printf abc", allow_pipe=True) as file:
        assert file.read() == b"abc" and file.seek(1) == 1 and file.read() == b"bc"
    with pytest.raises(OSError, match="'printf abc; exit 3' failed with exit code 3"):
        open_archive("pipe:printf abc; exit 3", allow_pipe=True)


def test_local_files_and_urls(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"abc")
    for path in (str(tmp_path / "a.tar"), f"file://{tmp_path}/a.tar"):
        with open_archive(path) as file:
            assert file.read() == b"abc"


def test_kinds_of_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    check_protocol("file:///a.tar", "data.path")
    with pytest.raises(SettingsError, match=r"data.path = 'nonsense://a': nonsense:// is no kind of URL"):
        check_protocol("nonsense://a", "data.path")
    monkeypatch.setattr("fsspec.get_filesystem_class", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(SettingsError, match=r"pip install .*\[s3\]'"):
        check_protocol("s3://bucket/a.tar", "data.path")


def test_damage_is_told_from_a_disk_that_fails() -> None:
    assert is_damage(tarfile.ReadError("cut off")) and is_damage(EOFError()) and is_damage(ValueError())
    assert not is_damage(OSError(5, "input/output error")) and not is_damage(PermissionError(13, "no"))
    assert not is_damage(OSError("a network's error without a number"))
    with pytest.raises(OSError, match="Invalid data stream") as caught:
        bz2.BZ2File(io.BytesIO(b"BZh9" + bytes(40))).read()
    assert is_damage(caught.value)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_extended_header_without_bound_is_refused(kind: bytes) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, 2**17
    with pytest.raises(tarfile.ReadError, match="an extended header has 131072 bytes, over 65536"):
        open_tar(io.BytesIO(info.tobuf() + bytes(2**18))).next()


def test_the_identity_of_a_shard_follows_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"abc")
    before = shard_identity(str(path))
    assert before["size"] == 3 and shard_identity(str(path)) == before
    os.utime(path, ns=(0, before["mtime_ns"] + 1))
    assert shard_identity(str(path)) != before
    url = shard_identity(f"file://{path}")
    assert url["size"] == 3 and url == shard_identity(f"file://{path}")
    assert shard_identity("pipe:cat a.tar") == {"command": "pipe:cat a.tar"}
    with pytest.raises(FileNotFoundError):
        shard_identity(str(tmp_path / "gone.tar"))
