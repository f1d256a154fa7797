"""An explanation as text, page and picture: all text stays text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.explain.explain import explain
from memsieve.inference.explain.page import as_text, write_page, write_picture


def test_pages_and_pictures(build_pipeline: Callable[..., Any], tmp_path: Path) -> None:
    prompt = "cat <script>alert(1)</script> $x_1$ & {{ 7 * 7 }}"
    found = explain(build_pipeline(), prompt, settings=DetectSettings(schedule_steps=10))
    write_page(tmp_path / "e.html", [found])
    page = (tmp_path / "e.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script" not in page and "{{" in page
    write_picture(tmp_path / "e.png", found)
    assert Image.open(tmp_path / "e.png").size[0] > 500
    text = as_text(found).splitlines()
    assert text[0].startswith("cat ") and text[-1].startswith("padding together") and len(text) == len(found.words) + 4
