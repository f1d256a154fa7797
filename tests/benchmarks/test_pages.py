"""Every published page is what its benchmark makes of its numbers."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.common import ROOT

PAGES = {
    "audit": ("audit", "benchmarks-audit.md"),
    "detect": ("detection", "benchmarks-detection.md"),
    "false_drops": ("false_drops", "benchmarks-false-drops.md"),
    "identity": ("identity", "benchmarks-identity.md"),
    "signals": ("signals", "benchmarks-signals.md"),
    "speed": ("speed", "benchmarks-speed.md"),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_made_of_the_numbers(name: str, tmp_path: Path) -> None:
    """Written anew beside a copy of the numbers, so that a plot is not drawn over the one that is there."""
    folder, page = PAGES[name]
    numbers = tmp_path / "benchmarks"
    shutil.copytree(ROOT / "docs" / "benchmarks", numbers)
    writer = import_module(f"benchmarks.{folder}.page")
    writer.write_page(tmp_path / page, json.loads((numbers / f"{name}.json").read_text()))
    assert (tmp_path / page).read_text() == (ROOT / "docs" / page).read_text()
