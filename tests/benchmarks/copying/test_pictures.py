"""Pictures that are kept are those that are drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.copying import pictures
from benchmarks.copying.pictures import pictures_at
from memsieve.filtering.data.openmoji import draw_pictures
from memsieve.filtering.data.openmoji.names import list_emoji, miniature


def test_what_is_kept_is_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, _ = draw_pictures(miniature(list_emoji(), 0, 12), 32, True, None, oversample=1)
    first = pictures_at(tmp_path, 32, 12)
    monkeypatch.setattr(pictures, "draw_pictures", lambda *_: pytest.fail("drawn anew"))
    for found in (first, pictures_at(tmp_path, 32, 12)):
        assert [(p.emoji, p.caption, p.png, p.vivid) for p in found] == [
            (p.emoji, p.caption, p.png, p.vivid) for p in drawn
        ]
        assert all((a.thumb == b.thumb).all() for a, b in zip(found, drawn, strict=True))


def test_other_sizes_and_numbers_are_kept_apart(tmp_path: Path) -> None:
    assert len(pictures_at(tmp_path, 32, 6)) == 6
    assert len(pictures_at(tmp_path, 32, 3)) == 3
    assert pictures_at(tmp_path, 16, 3)[0].png != pictures_at(tmp_path, 32, 3)[0].png
