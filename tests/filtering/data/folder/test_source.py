"""Image folders as people have them: captions beside images and in metadata, what is left out, and links."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memsieve.filtering.data.folder.source import FolderSource
from memsieve.filtering.settings import SettingsError
from tests.filtering.data.folder.files import short, write
from tests.filtering.data.samples import config


class TestFolder:
    def test_same_name_text_files_in_sorted_order(self, tmp_path: Path) -> None:
        files: dict[str, bytes | str] = {
            "b.png": b"2",
            "b.txt": "two\n",
            "a.JPG": b"1",
            "a.txt": "one",
            "sub/dir/c.v1.webp": b"3",
            "sub/dir/c.v1.txt": "three",
            "notes.md": "x",
            ".hidden.png": b"x",
        }
        source = FolderSource(str(write(tmp_path, files)), config())
        assert [short(source.row(i)) for i in range(len(source))] == [
            ("a", ".", 0, b"1", "one"),
            ("b", ".", 1, b"2", "two"),
            ("sub/dir/c.v1", "sub/dir", 2, b"3", "three"),
        ]
        assert source.count_rows() == 3
        assert list(source.read(1)) == [source.row(1)]

    def test_metadata_jsonl(self, tmp_path: Path) -> None:
        lines = [
            {"file_name": "a.png", "text": "one", "id": 7},
            {"file_name": "gone.png", "text": "x"},
            {"file_name": "../a.png", "text": "x"},
            {"file_name": "/etc/passwd", "text": "x"},
            {"file_name": "a.png", "text": "again"},
            {"text": "x"},
        ]
        text = "\n".join([*(json.dumps(line) for line in lines), "{nonsense", ""])
        sub = json.dumps({"file_name": "c.png", "text": "three"})
        files: dict[str, bytes | str] = {"a.png": b"1", "b.png": b"2", "b.txt": "two", "metadata.jsonl": text}
        files |= {"s/c.png": b"3", "s/metadata.jsonl": sub}
        source = FolderSource(str(write(tmp_path, files)), config())
        found = [source.row(i) for i in range(len(source))]
        good = [(row.key, row.image, row.caption) for row in found if not row.error]
        assert good == [("a", b"1", "one"), ("b", b"2", "two"), ("s/c", b"3", "three")]
        assert found[0].meta == {"file_name": "a.png", "text": "one", "id": 7}
        assert sorted(row.error for row in found if row.error) == [
            "line 3 of metadata.jsonl: '../a.png' leaves the folder",
            "line 4 of metadata.jsonl: '/etc/passwd' leaves the folder",
            "line 5 of metadata.jsonl: 'a.png' is named twice",
            "line 6 of metadata.jsonl has no file_name",
            "line 7 of metadata.jsonl is not JSON: Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)",
            "metadata.jsonl names an image that is not in the folder",
        ]

    def test_unusable_rows(self, tmp_path: Path) -> None:
        files: dict[str, bytes | str] = {
            "bare.png": b"1",
            "big.png": b"x" * 2000,
            "big.txt": "x",
            "empty.png": b"",
            "empty.txt": "x",
            "long.png": b"1",
            "long.txt": "y" * 100,
            "twin.jpg": b"1",
            "twin.png": b"1",
            "twin.txt": "x",
        }
        folder = str(write(tmp_path, files))
        source = FolderSource(folder, config(max_image_bytes=1024, max_caption_bytes=16))
        errors = [source.row(i).error or "" for i in range(len(source))]
        for error, part in zip(
            errors,
            ["no caption", "has 2000 bytes", "0 bytes", "caption has 100 bytes", "name 'twin'", "name 'twin'"],
            strict=True,
        ):
            assert part in error
        loose = FolderSource(folder, config(allow_empty_caption=True))
        assert short(loose.row(0)) == ("bare", ".", 0, b"1", "")

    def test_a_file_that_goes_away_is_a_row(self, tmp_path: Path) -> None:
        source = FolderSource(str(write(tmp_path, {"a.png": b"1", "a.txt": "x"})), config())
        (tmp_path / "a.png").unlink()
        assert source.row(0).error == "the image cannot be read: No such file or directory"

    def test_wrong_paths(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="data.path = '.*nowhere' is not a folder"):
            FolderSource(str(tmp_path / "nowhere"), config())
        with pytest.raises(SettingsError, match="data.held_out_path = .* holds no image"):
            FolderSource(str(tmp_path), config(), "data.held_out_path")
