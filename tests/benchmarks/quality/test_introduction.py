"""The introduction says what the cells were made with, not what the settings are by now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import CONFIGS
from benchmarks.quality.cell import Cell
from benchmarks.quality.figures import Results
from benchmarks.quality.introduction import introduction
from tests.benchmarks.quality.cells import fixture_cell


def said(wanted: list[Cell], *cells: dict[str, Any]) -> str:
    text = introduction(Results({(cell["method"], "planted", cell["seed"]): cell for cell in cells}), wanted)
    assert all(len(line) <= 120 for line in text.splitlines())
    return " ".join(text.split())


def test_the_numbers_are_those_of_the_cells() -> None:
    """Of a stream that is read thrice, in batches of 7, by another learning rate than the protocol has."""
    cell = fixture_cell("none", 0, found=False)
    cell["settings"]["spec"] |= {"levels": [[4, 5], [10, 6]], "passes": 3, "hard_repeats": 9, "hard_pairs": 2}
    cell["settings"]["protocol"] |= {"batch_size": 7, "lr": 5e-4, "images": 2, "sampling_steps": 33}
    cell["rows"] = {"stream": 1001, "oracle": 143}
    text = said([Cell("none", "planted", 0)], cell)
    assert "exposures are repeats times 3: 5 pairs at 12, 6 pairs at 30; 2 pairs each, at 27 exposures" in text
    assert "one stream of 1,001 pairs" in text and "batch 7, AdamW 0.0005" in text and "DPM-Solver++ 33 steps" in text
    assert "**all take 429 steps**, the oracle 21 passes over its 143 pairs" in text  # 1001 * 3 / 7; 429 * 7 / 143
    assert "2 generations a pair, 36 a level with three seeds" in text  # 3 seeds * 6 pairs * 2
    cell["rows"]["stream"] = 1002
    assert "**all take 430 steps**" in said([], cell), "the last batch, which is not full, is a step too"
    cell["settings"]["protocol"]["steps"] = 50
    assert "**all take 50 steps**" in said([], cell)


def test_only_wanted_cells_count_as_done() -> None:
    wanted = [Cell("none", "planted", seed) for seed in (0, 1, 2)]
    cells = [fixture_cell("none", seed, found=False) for seed in (0, 2, 7)]
    assert "**2 of 3 cells**" in said(wanted, *cells)


def test_how_often_the_loader_reads_is_said_where_it_was_measured(tmp_path: Path) -> None:
    plain, sieve = fixture_cell("none", 0, found=False), fixture_cell("ours_sieve", 0, found=True)
    assert "is read more often. **Training.**" in said([], plain)
    for pair in sieve["pairs"]:
        pair |= {"case": "level 50", "visits": 64}
    assert "more often: at the loader a pair in the column 50 came round 64 times (median)" in said([], plain, sieve)
    shipped = yaml.safe_load((CONFIGS / "openmoji_sieve.yaml").read_text())["filter"]["score_budget"]
    assert f"whose `score_budget` of {shipped:g} is above the default" in said([], plain)
