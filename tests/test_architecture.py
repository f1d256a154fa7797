"""docs/architecture.md and docs/glossary.md name files and functions that there are, and the rule of the page runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from memsieve import Predictions, Visit

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()


def rows(page: str) -> list[list[str]]:
    """The cells of all tables, headlines apart."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|---" not in line]


def test_the_way_of_a_row_names_one_file_and_one_function_each() -> None:
    found = 0
    for question, where, what in (row for row in rows(PAGE) if len(row) == 3 and row[0].endswith("?")):
        files = re.findall(r"`([\w/]+\.py)`", where)
        names = [name.split(".")[-1] for name in re.findall(r"`([\w.]+)`", what) if "/" not in name]
        assert files and names, question
        for name in names:
            assert any(re.search(rf"def {name}\b", (ROOT / file).read_text()) for file in files) or (
                name in ("judge",) and "def judge" in (ROOT / "filtering/data/loader_sieve.py").read_text()
            ), f"{question} {name} is not in {files}"
        found += 1
    assert found >= 9


def test_every_path_on_the_pages_is_there() -> None:
    folders = "filtering|inference|train|memsieve|benchmarks|scripts|tests"
    paths = re.findall(rf"`((?:{folders})/[\w/]*(?:\.py)?)`", PAGE + GLOSSARY)
    assert len(paths) > 30
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_page_is_short() -> None:
    assert len(PAGE.splitlines()) <= 100


def test_a_rule_of_ones_own_decides() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, object] = {}
    exec(code, scope)
    sieve = scope["sieve"]
    noise = torch.zeros(2, 4)
    measured = sieve.measure(Predictions(noise, torch.tensor([[0.1] * 4, [1.0] * 4])), torch.tensor([10, 10]))  # type: ignore[attr-defined]
    decision = sieve.decide([Visit("low"), Visit("high")], measured)  # type: ignore[attr-defined]
    assert decision.weights.tolist() == [0.0, 1.0]
    assert decision.verdicts[0].threshold == pytest.approx(0.05)
    for _ in range(25):  # nobody waits for held-out pairs
        sieve.decide([Visit("low"), Visit("high")], measured)  # type: ignore[attr-defined]
        sieve.end_window()  # type: ignore[attr-defined]
    assert sieve.condemned == {}  # type: ignore[attr-defined]
