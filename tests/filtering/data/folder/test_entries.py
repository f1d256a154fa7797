"""Which file beside an image says what it shows."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from memsieve.filtering.data.decode import decode_row
from memsieve.filtering.data.rows import RawRow
from tests.filtering.data.folder.files import captions, png, source_of
from tests.filtering.data.samples import config


class TestCaptionFiles:
    def test_the_suffixes_of_other_trainers_in_any_case(self, tmp_path: Path) -> None:
        files: dict[str, bytes | str] = {"a.png": b"1", "b.png": b"2", "c.png": b"3", "d.png": b"4", "e.jpg": b"5"}
        files |= {"a.caption": "one", "b.TXT": "two", "c.Caption": "three", "d.text": "four", "e.TxT": "five"}
        source = source_of(tmp_path, files)
        assert captions(source) == {"a": "one", "b": "two", "c": "three", "d": "four", "e": "five"}
        assert source.left_out[0].sentence() is None

    @pytest.mark.parametrize(
        ("content", "caption"),
        [
            ('"a cat"', "a cat"),
            ('{"caption": "a cat", "prompt": "x"}', "a cat"),
            ('{"text": "a cat"}', "a cat"),
            ('{"prompt": "a cat", "uid": "7"}', "a cat"),
            ('{"caption": "", "text": "a cat"}', "a cat"),
            ('["a cat"]', "a cat"),
            ("{nonsense", "'a.json' is not JSON"),
            ('{"title": "a cat"}', "the sample has no caption"),
            ('{"caption": 7}', "the caption is a int, not text"),
            (f'"{"x" * 2**20}"', "'a.json' has 1048578 bytes, over 1048576"),
        ],
    )
    def test_json_beside_an_image(self, tmp_path: Path, content: str, caption: str) -> None:
        found = captions(source_of(tmp_path, {"a.png": b"1", "a.json": content}))
        assert (found["a"] or "").startswith(caption)

    def test_caption_key_names_the_field_of_the_json(self, tmp_path: Path) -> None:
        files: dict[str, bytes | str] = {
            "a.png": b"1",
            "a.json": json.dumps({"caption": "short", "long": "a long one"}),
        }
        files |= {"a.txt": "tags"}
        source = source_of(tmp_path, files, caption_key="json.long;txt")
        assert captions(source) == {"a": "a long one"}
        assert captions(source_of(tmp_path, {}, caption_key="json.other;txt")) == {"a": "tags"}
        assert captions(source_of(tmp_path, {})) == {"a": "tags"}

    def test_the_first_that_is_there_counts_and_the_others_are_counted(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        files: dict[str, bytes | str] = {}
        for name in "abcd":
            files |= {f"{name}.png": b"1", f"{name}.caption": "by caption", f"{name}.json": '"by json"'}
        files |= {"a.txt": "by txt", "b.txt": " \n", "c.txt": "by txt", "c.TXT": "again"}
        files |= {"metadata.jsonl": '{"file_name": "d.png", "text": "by metadata"}\n', "z.txt": "of no image"}
        with caplog.at_level(logging.WARNING, "memsieve.filtering.data.folder"):
            source = source_of(tmp_path, files)
            source_of(tmp_path, {})
        assert captions(source) == {"a": "by txt", "b": "by caption", "c": "by txt", "d": "by metadata"}
        said = (
            "left out: 9 captions of images that have another one (.caption 4, .json 4, .txt 1); 1 caption file "
            "without an image (.txt 1)"
        )
        assert [record.message for record in caplog.records] == [f"data.path = '{tmp_path}': {said}"]
        assert set(source.files(3)) == {tmp_path / n for n in ("d.png", "d.caption", "d.json", "metadata.jsonl")}

    def test_a_list_of_captions_is_drawn_from_at_each_visit(self, tmp_path: Path) -> None:
        texts = ["one", "two", "three"]
        files: dict[str, bytes | str] = {"a.png": png(), "b.png": png(), "c.png": png()}
        files |= {"a.json": json.dumps({"caption": [*texts, "", None]}), "c.json": '["x", 7]'}
        files |= {"metadata.jsonl": json.dumps({"file_name": "b.png", "text": texts})}
        source = source_of(tmp_path, files)
        assert source.row(2).error == "the caption is a int, not text"
        for raw in (source.row(0), source.row(1)):
            assert (raw.caption, raw.captions) == ("one", ("one", "two", "three"))

            def drawn(seed: int, raw: RawRow = raw) -> list[str]:
                return [decode_row(raw, config(), 1, 2, offset, seed).caption for offset in range(60)]

            assert drawn(0) == drawn(0) != drawn(1)
            assert all(12 <= drawn(0).count(text) <= 30 for text in texts)
