"""The page of the planted-duplicates benchmark: of the cells that are there, made with the settings of now."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.common import PAGES
from benchmarks.common import write_lines as write
from benchmarks.quality.cell import Cell, Plan
from benchmarks.quality.methods import NAMES
from benchmarks.quality.page import write_page
from benchmarks.quality.run import small_matrix
from tests.benchmarks.quality.cells import fixture_cell


def test_the_page_says_which_cells_are_missing_and_keeps_the_rest_of_the_page(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "work", tmp_path / "docs" / "benchmarks" / "quality")
    for method, seed, found in (("ours", 0, True), ("oracle", 0, True), ("none", 0, False), ("cap", 0, False)):
        write(plan.file(Cell(method, "planted", seed)), fixture_cell(method, seed, found))
    page = tmp_path / "docs" / "benchmarks.md"
    page.write_text("# Benchmarks\n\n## Speed\n\nFast.\n")
    wanted = [Cell(m, "planted", s) for m in ("none", "oracle", "ours", "paper") for s in (0, 1, 2)]
    for _ in range(2):  # written again, the section is replaced
        write_page(page, plan, wanted)
        text = page.read_text()
        assert text.count("## Quality") == 1
        assert "Fast." in text
    assert "**3 of 12 cells**" in text
    assert "| the paper's rule |  (missing: 0, 1, 2) |" in text
    assert "memsieve, in the batch: dropped at 100 exposures, at least .95 | 1.00 (0.51 to 1.00) | yes" in text
    assert "memsieve, in the batch: TPR at 1 % at 100 exposures, at least .95 | 1.00 (0.51 to 1.00) | yes" in text
    assert "**all take 625 steps**, the oracle 25 passes over its 200 pairs" in " ".join(text.split())
    assert "| 0.00; no filter 0.50, cap: 50 visits a pair 0.50 | yes |" in text
    assert "memsieve, in the batch: held-out loss within 1 % of the oracle's | 1.100 (1.100 to 1.100) | **no**" in text
    assert "left out" not in text
    write(plan.file(Cell("ours", "planted", 0)), fixture_cell("ours", 0, True, hash="of other settings"))
    write_page(page, plan, wanted)
    assert "**2 of 12 cells**" in page.read_text()
    assert "1 cell made with other settings is left out" in page.read_text()
    assert (page.parent / "benchmarks" / "quality.png").stat().st_size > 10_000


def test_the_published_page_is_made_of_the_published_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that it names: cells that a later filter makes stale stay published with it."""
    docs = PAGES
    published = (docs / "benchmarks.md").read_text()
    named = {
        (method, int(seed))
        for method, name in NAMES.items()
        for seeds in re.findall(rf"^\| {re.escape(name)} \| ([\d, ]+)(?: \(missing.*)?\|$", published, re.MULTILINE)
        for seed in seeds.split(",")
    }
    assert len(named) >= 45
    shutil.copytree(docs / "benchmarks" / "quality", tmp_path / "benchmarks" / "quality")
    plan = Plan(tmp_path, tmp_path / "benchmarks" / "quality")

    def published_hash(plan: Plan, cell: Cell) -> str:
        stays = (cell.method, cell.seed) in named or cell.method not in NAMES
        return str(json.loads(plan.file(cell).read_text())["hash"]) if stays and plan.file(cell).is_file() else "other"

    monkeypatch.setattr(Plan, "hash", published_hash)
    write_page(tmp_path / "benchmarks.md", plan, small_matrix())
    assert (tmp_path / "benchmarks.md").read_text() == published
