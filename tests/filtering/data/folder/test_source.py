"""Image folders as people have them: captions beside images and in metadata, what is left out, and links."""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import decode_row
from memsieve.filtering.data.folder.source import FolderSource
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.settings import SettingsError


def config(**values: Any) -> DataConfig:
    return DataConfig(**{"path": "unused", "resolution": 8, "held_out_fraction": 0.0, **values})


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def short(row: RawRow) -> tuple[str, str, int, bytes, str | None]:
    return (row.key, row.shard, row.index, row.image, row.error if row.error else row.caption)


def png(kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(stream, kind)
    return stream.getvalue()


def captions(source: FolderSource) -> dict[str, str | None]:
    """Caption by key, or the error in its place."""
    rows = [source.row(i) for i in range(len(source))]
    return {row.key: row.error or row.caption for row in rows}


def source_of(root: Path, files: dict[str, bytes | str], **values: Any) -> FolderSource:
    return FolderSource(str(write(root, files)), config(**values))


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


class TestLeftOut:
    def test_thumbnails_and_system_files_are_no_data(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        files: dict[str, bytes | str] = {"a.png": b"1", "a.txt": "one"}
        for name in (".ipynb_checkpoints/a-checkpoint.png", ".thumbnails/x.png", "@eaDir/a.png/SYNO.png",
                     "__MACOSX/._a.png", "s/@eaDir/x.png", ".DS_Store", "._a.png", "Thumbs.db"):  # fmt: skip
            files[name] = b"x"
        with caplog.at_level(logging.WARNING, "memsieve.filtering.data.folder"):
            source = source_of(tmp_path, files)
        assert captions(source) == {"a": "one"}
        assert (
            "left out: 8 hidden or system names (@eaDir 2, .DS_Store 1, .ipynb_checkpoints 1, .thumbnails 1, "
            "Thumbs.db 1, 2 more kinds)" in caplog.text
        )

    def test_a_hidden_folder_that_is_named_is_read(self, tmp_path: Path) -> None:
        assert captions(source_of(tmp_path / ".cache" / "images", {"a.png": b"1", "a.txt": "one"})) == {"a": "one"}

    def test_files_of_other_kinds_are_counted_by_suffix(self, tmp_path: Path) -> None:
        files: dict[str, bytes | str] = {"a.png": b"1", "a.txt": "one", "b.heic": b"2", "c.HEIC": b"3", "d.psd": b"4"}
        sentence = source_of(tmp_path / "a", files).left_out[0].sentence()
        assert sentence == "left out: 3 files with a suffix that data.image_key does not name (.heic 2, .psd 1)"
        with pytest.raises(SettingsError, match=r"holds no image .*; left out: 1 file with a suffix .*\(\.heic 1\)"):
            source_of(tmp_path / "b", {"a.heic": b"1"})
        named = source_of(tmp_path / "a", {"b.txt": "two"}, image_key="png;.HEIC", allow_empty_caption=True)
        assert captions(named) == {"a": "one", "b": "two", "c": ""}

    @pytest.mark.parametrize("kind", ["bmp", "gif", "tif", "tiff", "avif", "JPG"])
    def test_every_kind_that_can_be_decoded_is_a_row(self, tmp_path: Path, kind: str) -> None:
        name = {"tif": "TIFF", "JPG": "JPEG"}.get(kind, kind.upper())
        source = source_of(tmp_path, {f"a.{kind}": png(name), "a.txt": "one"})
        row = decode_row(source.row(0), config(), 0, 0, 0, 0)
        assert [round(float(v)) for v in (row.pixels[:, 4, 4] + 1) * 127.5] == pytest.approx([200, 100, 50], abs=4)


class TestLinks:
    def test_linked_folders_are_read_once(self, tmp_path: Path) -> None:
        write(tmp_path / "elsewhere", {"s/b.png": b"2", "s/b.txt": "two"})
        root = write(tmp_path / "root", {"a.png": b"1", "a.txt": "one", "z/c.png": b"3", "z/c.txt": "three"})
        os.symlink(tmp_path / "elsewhere", root / "linked")
        os.symlink(root, tmp_path / "elsewhere" / "back")
        os.symlink(root, root / "loop")
        os.symlink("z", root / "again")
        os.symlink("nowhere", root / "broken")
        os.symlink(tmp_path / "elsewhere" / "s" / "b.png", root / "file.png")
        write(root, {"file.txt": "a linked file"})
        source = FolderSource(str(root), config())
        assert captions(source) == {"a": "one", "file": "a linked file", "linked/s/b": "two", "z/c": "three"}
        assert source.left_out[0].sentence() == (
            "left out: 1 file with a suffix that data.image_key does not name (no suffix 1); "
            "3 linked folders whose files are read under another name (again 1, back 1, loop 1)"
        )

    def test_a_folder_that_cannot_be_listed_is_said(self) -> None:
        with tempfile.TemporaryDirectory() as name:  # pytest's own folders let nobody but their owner in
            root = write(Path(name), {"a.png": b"1", "a.txt": "one", "closed/b.png": b"2"})
            root.chmod(0o755)
            (root / "closed").chmod(0)
            as_root = os.geteuid() == 0  # who may list every folder
            try:
                if as_root:
                    os.seteuid(65534)
                sentence = FolderSource(str(root), config()).left_out[0].sentence()
            finally:
                if as_root:
                    os.seteuid(0)
                (root / "closed").chmod(0o755)
        assert sentence == "left out: 1 folder that cannot be read (closed: Permission denied 1)"
