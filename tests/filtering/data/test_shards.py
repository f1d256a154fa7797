"""Which files a pattern names, and what is read of them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
from pathlib import Path

import pytest
import webdataset as wds

from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.data.sources import ShardSource
from tests.filtering.data.tars import config, pair, rows, write_tar


def test_reads_what_webdataset_writes(tmp_path: Path) -> None:
    path = str(tmp_path / "0.tar")
    with wds.TarWriter(path) as writer:
        writer.write({"__key__": "dir/k1", "jpg": b"one", "txt": " a cat\n", "json": {"url": "u"}})
        writer.write({"__key__": "k2", "png": b"two", "caption": "\ufeffein Hündchen"})
        writer.write({"__key__": "k3", "png": b"three", "txt": "ein Kätzchen\r\n".encode("utf-16")})
    assert rows(path) == [
        ("dir/k1", 0, b"one", "a cat"), ("k2", 1, b"two", "ein Hündchen"), ("k3", 2, b"three", "ein Kätzchen")
    ]  # fmt: skip
    assert next(read_shard(path, config())).meta == {"url": "u"}
    assert len(list(read_shard(path, config(), bodies=False))) == 3


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.xz"])
def test_compressed_shards(tmp_path: Path, suffix: str) -> None:
    path = str(tmp_path / f"0.{suffix}")
    with tarfile.open(path, f"w:{suffix[4:]}") as tar:
        for name, data in pair("a") + pair("b"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert [row[0] for row in rows(path)] == ["a", "b"]


def test_upper_case_suffixes_and_files_that_are_no_samples(tmp_path: Path) -> None:
    members = [("__meta__", b"x"), ("README", b"x"), (".hidden", b"x"), ("a.JPG", b"one"), ("a.TXT", b"cat")]
    assert rows(write_tar(tmp_path / "0.tar", members)) == [("a", 0, b"one", "cat")]


def test_truncated_inside_a_member(tmp_path: Path) -> None:
    whole = Path(write_tar(tmp_path / "whole.tar", [m for n in range(4) for m in pair(str(n))]))
    # Four blocks (2048 bytes) a sample; cut inside the image of sample 2.
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[: 2 * 2048 + 512 + 3])
    found = rows(str(cut))
    assert [row[:3] for row in found] == [("0", 0, b"image 0"), ("1", 1, b"image 1"), ("2", 2, b"")]
    assert f"shard '{cut}' cannot be read to its end, it is truncated" in (found[2][3] or "")


@pytest.mark.parametrize("end", [2 * 2048, 2 * 2048 + 100], ids=["between members", "inside a header"])
def test_truncated_where_tarfile_sees_a_normal_end(tmp_path: Path, end: int) -> None:
    whole = Path(write_tar(tmp_path / "whole.tar", [m for n in range(4) for m in pair(str(n))]))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:end])
    found = rows(str(cut))
    assert [row[:3] for row in found] == [("0", 0, b"image 0"), ("1", 1, b"image 1"), ("", 2, b"")]
    assert "truncated" in (found[2][3] or "")


def test_truncated_after_half_a_sample_and_damaged_header(tmp_path: Path) -> None:
    whole = Path(write_tar(tmp_path / "whole.tar", [m for n in range(3) for m in pair(str(n))])).read_bytes()
    half = tmp_path / "half.tar"
    half.write_bytes(whole[: 2048 + 1024])
    assert [row[:3] for row in rows(str(half))] == [("0", 0, b"image 0"), ("1", 1, b"")]
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(whole[:2048] + b"\x07" * 512 + whole[2048 + 512 :])
    found = rows(str(damaged))
    assert [row[:3] for row in found] == [("0", 0, b"image 0"), ("", 1, b"")]


@pytest.mark.parametrize("change", ["gone", "cut", "shorter"])
def test_a_shard_that_has_changed_since_it_was_counted_says_so_wherever_it_is_read_from(
    tmp_path: Path, change: str
) -> None:
    """Stretches of a shard are read by several streams: none of them may lose its rows without a word."""
    members = [member for number in range(12) for member in pair(f"{number:02d}")]
    path = Path(write_tar(tmp_path / "0.tar", members))
    source = ShardSource(str(path), config())
    if change == "gone":
        path.unlink()
    elif change == "cut":
        path.write_bytes(path.read_bytes()[: 2048 * 2 + 100])
    else:
        write_tar(path, members[:4])
    left = 0 if change == "gone" else 2
    for bodies in (True, False):
        found = [[row.index for row in source.read(0, start, start + 3, bodies=bodies)] for start in (0, 3, 6)]
        assert found == [[*range(left), left], [left], [left]]
    (row,) = source.read(0, 5)
    assert row.error is not None and row.status == {"gone": "unreachable", "cut": "truncated"}.get(change, "changed")
    # What is said once is not said again by a reader that goes on behind it.
    assert not list(source.read(0, 0, 3, only=range(left + 1, 100)))
    assert not list(source.read(0, 5, only=range(left + 1, 100)))


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_damage_inside_a_compressed_shard_is_met_at_the_same_row_by_headers_alone(tmp_path: Path, suffix: str) -> None:
    """Else a resume would pass other rows than were read."""
    generator = random.Random(1)
    plain = Path(
        write_tar(tmp_path / "0.tar", [(f"{n}.jpg", generator.randbytes(1000 + 4000 * (n % 3))) for n in range(6)])
    ).read_bytes()
    whole = {"gz": gzip, "bz2": bz2, "xz": lzma}[suffix].compress(plain)
    source = ShardSource(str(tmp_path / "0.tar"), config(allow_empty_caption=True))
    for number in range(40):
        place = len(whole) * number // 40 + 7
        data = bytearray(whole)
        data[place] ^= 16
        (tmp_path / "0.tar").write_bytes(data)
        expected = [(row.key, row.index) for row in source.read(0)]
        assert [(row.key, row.index) for row in source.read(0, bodies=False)] == expected
        if len(expected) > 1:
            assert [(row.key, row.index) for row in source.read(0, 1)] == expected[1:]


def test_not_a_tar_and_a_missing_file_are_rows(tmp_path: Path) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"hello")
    for path in (str(bad), str(tmp_path / "gone.tar")):
        found = rows(path)
        assert [row[:3] for row in found] == [("", 0, b"")]
        assert path in (found[0][3] or "")


def test_hostile_names_and_links_touch_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("../up.jpg", "../up.txt", f"{tmp_path}/abs.jpg", f"{tmp_path}/abs.txt", "a.jpg", "b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 3
            if name == "b.jpg":
                break
            tar.addfile(info, io.BytesIO(b"cat"))
        for name, kind in (("a.txt", tarfile.SYMTYPE), ("c.jpg", tarfile.LNKTYPE), ("d.jpg", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret)
            tar.addfile(info)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    found = rows(str(tmp_path / "0.tar"))
    assert found[:2] == [("../up", 0, b"cat", "cat"), (f"{tmp_path}/abs", 1, b"cat", "cat")]
    assert [row[0] for row in found[2:]] == ["a", "c", "d"]
    assert f"member 'a.txt' is a link to '{secret}'" in (found[2][3] or "")
    assert "is a link to" in (found[3][3] or "")
    assert "not a regular file" in (found[4][3] or "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_pickles_are_never_read(tmp_path: Path) -> None:
    # Opcodes that would raise if any decoder unpickled them.
    members = [("a.jpg", b"i"), ("a.pyd", b"cos\nabort\n(tR."), ("a.pickle", b"cos\nabort\n(tR."), ("a.txt", b"x")]
    assert rows(write_tar(tmp_path / "0.tar", members)) == [("a", 0, b"i", "x")]


def test_names_that_are_not_utf8_can_be_printed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("caf\udce9.jpg", b"i"), ("caf\udce9.txt", b"x")])
    assert rows(path) == [("caf\\udce9", 0, b"i", "x")]


def test_shard_source_counts_and_reads_parts(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", pair("a") + pair("b"))
    write_tar(tmp_path / "1.tar", pair("a"))
    source = ShardSource(str(tmp_path), config())
    assert (len(source), source.count_rows(), source.indexed) == (2, 3, False)
    assert [(row.key, row.shard) for row in source.read(1)] == [("a", str(tmp_path / "1.tar"))]
