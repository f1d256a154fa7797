"""Images beside their nearest training images: files, drawn ones, and the pages."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from memsieve.inference.copies.index import TrainingIndex
from memsieve.inference.copies.pixels import load_pixels
from memsieve.inference.copies.verify import load_files, square, verify_images, write_matches
from tests.inference.copies.pictures import picture


def test_pages_show_both_and_escape(index: TrainingIndex, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "<i>.png").write_bytes(picture(5, 60))
    (tmp_path / "in" / "bad.png").write_bytes(b"nothing")
    names, pixels = load_files(sorted((tmp_path / "in").iterdir()), index.side)
    matches = verify_images(index, names, pixels)
    assert "bad.png" in str(matches[1].error) and matches[1].neighbours == []
    write_matches(tmp_path / "out", index, matches, pixels)
    page = (tmp_path / "out" / "matches.html").read_text()
    assert "1 of 2 images copy a training image" in page and page.count("data:image/png;base64,") == 4
    assert "&lt;i&gt;.png" in page and "caption 5 &lt;b&gt;" in page and "<b>5" not in page and "bad.png" in page
    assert json.loads((tmp_path / "out" / "matches.json").read_text())[0]["copy"] is True


def test_generated_tensors_are_cropped_like_files() -> None:
    image = load_pixels(picture(1, 96), 96)[None]
    wide = torch.cat([torch.ones(1, 3, 96, 20), image, torch.ones(1, 3, 96, 20)], dim=3)
    assert torch.allclose(square(wide, 96), image) and square(wide, 32).shape == (1, 3, 32, 32)
    assert (square(image, 32)[0] - load_pixels(picture(1, 96), 32)).abs().mean() < 0.03
