"""Captions in a metadata.jsonl or metadata.csv."""

from __future__ import annotations

import json
from pathlib import Path

from tests.filtering.data.folder.files import captions, source_of


class TestMetadata:
    def test_csv_with_commas_semicolons_or_tabs(self, tmp_path: Path) -> None:
        for number, delimiter in enumerate(",;\t"):
            lines = [["file_name", "text"], ["a.png", "one"], ["s/b.png", '"two, three; ""four"""'], ["c.png", ""]]
            files: dict[str, bytes | str] = {"a.png": b"1", "s/b.png": b"2", "c.png": b"3", "c.txt": "five"}
            files |= {"metadata.csv": "\ufeff" + "\r\n".join(delimiter.join(cells) for cells in lines)}
            source = source_of(tmp_path / str(number), files)
            assert captions(source) == {"a": "one", "s/b": 'two, three; "four"', "c": "five"}
            assert source.row(0).meta == {"file_name": "a.png", "text": "one"}

    def test_unusable_csv_is_rows_with_errors(self, tmp_path: Path) -> None:
        text = "file_name,text\na.png,one, two\ngone.png,x\n../a.png,x\n,x\nb.png,\xe9\nb.png,y\n".encode("latin-1")
        source = source_of(tmp_path / "a", {"a.png": b"1", "b.png": b"2", "metadata.csv": text})
        errors = sorted(row.error or "" for row in map(source.row, range(len(source))))
        assert errors == [
            "line 2 of metadata.csv has 3 fields, and the header 2; put a value that holds ',' in quotes",
            "line 4 of metadata.csv: '../a.png' leaves the folder",
            "line 5 of metadata.csv has no file_name",
            "line 7 of metadata.csv: 'b.png' is named twice",
            "metadata.csv names an image that is not in the folder",
            "the caption holds half of a surrogate pair, which is not text",
            "the sample has no caption (data.caption_key = 'txt;caption;text')",
        ]
        found = captions(source_of(tmp_path / "b", {"a.png": b"1", "a.txt": "x", "metadata.csv": "name,text\na,b\n"}))
        assert "line 1 of metadata.csv names no column file_name (its columns: name, text)" in found.values()
        endless = {"a.png": b"1", "a.txt": "x", "metadata.csv": f'file_name,text\na.png,"{"x" * 200_000}'}
        found = captions(source_of(tmp_path / "c", dict(endless)))
        assert any("ends the reading: field larger than field limit" in (text or "") for text in found.values())

    def test_jsonl_counts_before_csv_and_both_are_read(self, tmp_path: Path) -> None:
        files: dict[str, bytes | str] = {"a.png": b"1", "b.png": b"2"}
        files |= {"metadata.jsonl": '{"file_name": "a.png", "text": "by jsonl"}'}
        files |= {"metadata.csv": "file_name,text\na.png,by csv\nb.png,two\n"}
        source = source_of(tmp_path, files)
        assert captions(source) == {"a": "by jsonl", "b": "two"}
        assert source.left_out[0].sentence() == "left out: 1 caption of images that have another one (metadata.csv 1)"

    def test_an_endless_line_is_one_bad_row(self, tmp_path: Path) -> None:
        files: dict[str, bytes | str] = {"a.png": b"1"}
        files |= {"metadata.jsonl": "x" * (3 * 2**20) + '\n{"file_name": "a.png", "text": "one"}'}
        found = captions(source_of(tmp_path, files))
        assert found["a"] == "one" and "line 1 of metadata.jsonl has over 1048576 bytes" in found.values()

    def test_images_that_differ_in_their_suffix_alone(self, tmp_path: Path) -> None:
        lines = [{"file_name": f"a.{kind}", "text": kind} for kind in ("jpg", "png")]
        text = "\n".join(json.dumps(line) for line in lines)
        assert captions(source_of(tmp_path / "a", {"a.jpg": b"1", "a.png": b"2", "metadata.jsonl": text})) == {
            "a.jpg": "jpg",
            "a.png": "png",
        }
        shared = captions(source_of(tmp_path / "b", {"a.jpg": b"1", "a.png": b"2", "a.txt": "x"}))
        assert all("rename them, or name each in metadata.jsonl" in (error or "") for error in shared.values())
