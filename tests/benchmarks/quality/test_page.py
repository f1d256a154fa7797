"""The planted-duplicates benchmark: from cells to figures with intervals, aims and the page."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import PAGES
from benchmarks.quality.aims import aims
from benchmarks.quality.cell import Cell, Plan
from benchmarks.quality.figures import Results, auc_of, found_at, interval
from benchmarks.quality.measure import write
from benchmarks.quality.methods import NAMES
from benchmarks.quality.page import write_page
from benchmarks.quality.run import small_matrix


def test_a_pair_is_found_above_all_but_one_percent_of_clean_pairs() -> None:
    clean = [float(i) for i in range(200)]  # two may lie above the bar: 198 and 199
    assert found_at(197.5, clean) == 1.0
    assert found_at(197.0, clean) == 0.0
    assert found_at(None, clean) == 0.0
    assert auc_of(99.5, clean) == pytest.approx(0.5)
    assert auc_of(0.0, [0.0, 1.0]) == pytest.approx(0.25)  # a tie counts half
    assert auc_of(5.0, [None, 1.0]) == 1.0


def test_intervals() -> None:
    sure = interval([1.0] * 20)
    assert sure is not None and sure.high == 1.0 and 0.8 < sure.low < 0.9  # Wilson: resampling would say 1 to 1
    some = interval([0.0, 0.5, 1.0] * 10)
    assert some is not None and 0.3 < some.low < some.value < some.high < 0.7
    assert interval([]) is None


def fixture_cell(method: str, seed: int, found: bool, **more: Any) -> dict[str, Any]:
    """A cell of 4 pairs at 100 exposures and 200 clean ones."""
    plan = Plan(Path(), Path())
    pairs = [{"pair": f"p{i}", "case": "level 100", "repeats": 20, "visits": 100, "trained": 100, "late": float(found),
              "first": 40 + i if found else None, "condemned": float(found), "dropped": found,
              "score": 5.0 if found else 0.5} for i in range(4)]  # fmt: skip
    singles = {"clean": {"count": 200, "score": [i / 200 for i in range(200)], "visits": [1] * 200, "dropped": [3]}}
    copied = {f"p{i}": {"case": "level 100", "copies": [int(not found), 0], "own": [1, 1]} for i in range(4)}
    return {
        "hash": plan.hash(Cell(method, "planted", seed)), "method": method, "case": "planted", "seed": seed,
        "settings": plan.settings(Cell(method, "planted", seed)),
        "tuned": None, "machine": {"processor": "a processor", "cores": 2, "torch": "2"},
        "rows": {"stream": 1000, "oracle": 200},
        "cpu_seconds_per_step": 0.2, "pairs": pairs, "singles": singles, "generations": copied,
        "held_out": [0.1, 0.2, 0.3] if method == "oracle" else [0.11, 0.22, 0.33], **more,
    }  # fmt: skip


def test_figures_pool_seeds(tmp_path: Path) -> None:
    cells = {("ours", "planted", s): fixture_cell("ours", s, found=s == 0) for s in (0, 1)}
    results = Results({**cells, ("oracle", "planted", 0): fixture_cell("oracle", 0, found=True)})
    tpr, auc, dropped = results.detection("ours", "level 100")
    assert tpr is not None and (tpr.value, tpr.pairs) == (0.5, 8)
    # the clean pair that was dropped ranks above the planted ones that were not
    assert auc is not None and auc.value == pytest.approx((1.0 + 0.4975) / 2)
    assert dropped is not None and dropped.value == 0.5
    copies = results.generated("ours", "level 100", "copies")
    assert copies is not None and copies.value == 0.25
    assert results.first_dropped("ours", "level 100") == (math.inf, 4, 8)
    drops = results.false_drops("ours")
    assert drops is not None and drops.value == 2 / 400
    held = results.held_out("ours")  # against the one seed that the oracle has
    assert held is not None and held.value == pytest.approx(1.1)


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


def test_the_aims_against_copies_and_dedup_can_be_missed() -> None:
    """Of two levels the unfiltered run copies one; a method that drops at visit 40 is early for it where pairs with 100
    exposures are not copied, and late where only those with 20 are not."""

    def said(innocent: str, found: bool) -> str:
        cells = {m: fixture_cell(m, 0, found=found) for m in ("ours", "oracle")}
        cells |= {m: fixture_cell(m, 0, found=m == "dedup") for m in ("none", "dedup")}
        for method, cell in cells.items():
            for pair in list(cell["pairs"]):
                cell["pairs"].append({**pair, "case": "level 200"})
                cell["pairs"].append({**pair, "case": "template", "dropped": method == "ours" and found})
            copies = cell["generations"]
            copies["q"] = {"case": "level 200", "copies": [int(method == "none")] * 2, "own": [1, 1]}
            copies["r"] = {"case": innocent, "copies": [0, 0], "own": [0, 0]}
            if innocent == "level 100":
                cell["generations"] = {name: told for name, told in copies.items() if name in "qr"}
        return aims(Results({(m, "planted", 0): cell for m, cell in cells.items()}), ["level 20", "level 100",
                    "level 200"])  # fmt: skip

    early = said("level 100", found=True)
    assert "pairs at 200 dropped before they are copied | median visit 42; no filter copies none of the pairs with "\
        "100 exposures | yes" in early  # fmt: skip
    assert "pairs at 200 dropped before they are copied | median visit 42; no filter copies none of the pairs with "\
        "20 exposures | **no**" in said("level 20", found=True)  # fmt: skip
    assert "TPR at 200 within .02 of exact dedup's | 1.00; 1.00 | yes" in early
    assert "template pairs, more dropped than by exact dedup | 1.00; 0.00 | yes" in early
    missed = said("level 100", found=False)
    assert "TPR at 200 within .02 of exact dedup's | 0.00; 1.00 | **no**" in missed
    assert "template pairs, more dropped than by exact dedup | 0.00; 0.00 | equal" in missed
    assert "median visit inf" not in missed and "none is dropped" in missed


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
