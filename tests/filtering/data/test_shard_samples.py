"""One sample of a shard: which members count, and what makes it unusable."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from memsieve.filtering.data.shards import read_shard
from tests.filtering.data.tars import config, pair, rows, write_tar


class TestCaption:
    def test_from_json(self, tmp_path: Path) -> None:
        meta = [{"caption": "a dog"}, {"caption": 3}, {"other": "x"}, {"caption": "\ud800"}]
        members = []
        for number, value in enumerate(meta):
            members += [(f"{number}.jpg", b"i"), (f"{number}.json", json.dumps(value).encode())]
        members += [("4.jpg", b"i"), ("4.json", b"{nonsense")]
        found = rows(write_tar(tmp_path / "0.tar", members), caption_key="json.caption;txt")
        assert found[0] == ("0", 0, b"i", "a dog")
        assert [row[1] for row in found] == [0, 1, 2, 3, 4]
        for row, message in zip(
            found[1:],
            ["the caption is a int, not text", "no caption", "surrogate pair", "json cannot be read"],
            strict=True,
        ):
            assert row[2] == b""
            assert message in (row[3] or "")

    def test_missing_empty_or_not_utf8(self, tmp_path: Path) -> None:
        members = [("a.jpg", b"i"), ("b.jpg", b"i"), ("b.txt", b" \n"), ("c.jpg", b"i"), ("c.txt", b"caf\xe9")]
        path = write_tar(tmp_path / "0.tar", members)
        strict = [row[3] or "" for row in rows(path)]
        assert "no caption (data.caption_key = 'txt;caption;text'; its fields: jpg)" in strict[0]
        assert "no caption" in strict[1]
        assert "not UTF-8" in strict[2]
        loose = rows(path, allow_empty_caption=True)
        assert loose[:2] == [("a", 0, b"i", ""), ("b", 1, b"i", "")]
        assert "not UTF-8" in (loose[2][3] or "")


def test_duplicate_members_and_keys(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("a.jpg", b"2"), ("a.txt", b"x"), *pair("b"), ("c.jpg", b"1"), *pair("b")]
    found = rows(write_tar(tmp_path / "0.tar", members))
    assert [row[0] for row in found] == ["a", "b", "c", "b"]
    assert found[0][3] == "member 'a.jpg' comes twice in the sample"
    assert found[1][2:] == (b"image b", "a cat")
    assert found[3][3] == "key 'b' came before in this shard: the files of a sample must be adjacent"


def test_members_sorted_by_extension_lose_nothing_silently(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"x"), ("b.txt", b"y")]
    found = rows(write_tar(tmp_path / "0.tar", members))
    assert [(row[0], row[2]) for row in found] == [("a", b""), ("b", b""), ("a", b""), ("b", b"")]


def test_sample_without_image(tmp_path: Path) -> None:
    found = rows(write_tar(tmp_path / "0.tar", [("a.txt", b"x"), ("a.psd", b"x"), ("b.jpg", b""), ("b.txt", b"x")]))
    assert f"no image (data.image_key = '{config().image_key}'; its fields: txt, psd)" in (found[0][3] or "")
    assert found[1][3] == "the image is empty (0 bytes)"


def test_dotted_keys(tmp_path: Path) -> None:
    members = [
        *[("img.v1.jpg", b"1"), ("img.v1.txt", b"x"), ("img.v2.jpg", b"2"), ("img.v2.txt", b"y")],
        *[("two.jpg", b"1"), ("two.txt", b"x"), ("two.v2.jpg", b"2"), ("two.v2.txt", b"y")],
        *[("seg.jpg", b"1"), ("seg.mask.png", b"m"), ("seg.txt", b"x")],
        *[("v1.0/deep.jpg", b"1"), ("v1.0/deep.txt", b"x")],
    ]
    path = write_tar(tmp_path / "0.tar", members)
    found = rows(path)
    assert [row[0] for row in found] == ["img", "two", "seg", "v1.0/deep"]
    assert "img.v1.jpg, img.v1.txt, img.v2.jpg, img.v2.txt fall under one key 'img'" in (found[0][3] or "")
    assert "fall under one key 'two'" in (found[1][3] or "")
    assert [row[2:] for row in found[2:]] == [(b"1", "x"), (b"1", "x")]
    named = rows(path, image_key="mask.png")
    assert named[2] == ("seg", 2, b"m", "x")


def test_size_limits_hold_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [("a.jpg", b"x" * 5000), ("a.txt", b"cat"), ("b.jpg", b"i"), ("b.txt", b"y" * 500), *pair("c")]
    members += [("d.jpg", b"i"), ("d.txt", b"z" * 18), ("e.jpg", b"i"), ("e.json", b"[" * (2**20 + 1))]
    path = write_tar(tmp_path / "0.tar", members)
    read: list[str] = []
    extract = tarfile.TarFile.extractfile
    monkeypatch.setattr(
        tarfile.TarFile, "extractfile", lambda self, info: (read.append(info.name), extract(self, info))[1]
    )
    found = rows(path, max_image_bytes=1024, max_caption_bytes=16, caption_key="txt;json.c")
    assert found[0][3] == "the image has 5000 bytes, over data.max_image_bytes = 1024"
    assert found[1][3] == "the caption has 500 bytes, over data.max_caption_bytes = 16"
    assert found[2] == ("c", 2, b"image c", "a cat")
    assert found[3][3] == "the caption has 18 bytes, over data.max_caption_bytes = 16"
    assert "member 'e.json' has 1048577 bytes" in (found[4][3] or "")
    assert not {"a.jpg", "b.txt", "e.json"}.intersection(read)


def test_keys_match_members_in_any_case(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("a.JPG", b"1"), ("a.Txt", b"one"), ("b.jpg", b"2"), ("b.CAPTION", b"two")])
    for keys in ({}, {"image_key": "JPG", "caption_key": "TXT;Caption"}, {"image_key": ".Jpg"}):
        assert rows(path, **keys) == [("a", 0, b"1", "one"), ("b", 1, b"2", "two")]


def test_a_list_of_captions_in_the_json_is_kept_whole(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("a.json", b'{"Captions": ["one", "two", ""]}'), ("b.jpg", b"2")]
    members += [
        ("b.json", b'{"Captions": []}'),
        ("c.jpg", b"3"),
        ("c.json", json.dumps({"Captions": ["x"] * 1001}).encode()),
    ]
    found = list(read_shard(write_tar(tmp_path / "0.tar", members), config(caption_key="json.Captions")))
    assert (found[0].caption, found[0].captions, found[0].all_captions) == ("one", ("one", "two"), ("one", "two"))
    assert "no caption" in (found[1].error or "") and "1001 captions, over 1000" in (found[2].error or "")
