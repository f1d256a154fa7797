"""Which files of a folder are its images."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import pytest

from memsieve.filtering.data.decode import decode_row
from memsieve.filtering.data.folder.source import FolderSource
from memsieve.filtering.settings import SettingsError
from tests.filtering.data.folder.files import captions, png, source_of, write
from tests.filtering.data.samples import config


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
