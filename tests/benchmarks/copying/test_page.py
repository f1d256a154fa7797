"""The page: of what is there, with what is missing named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.common import write_lines
from benchmarks.copying.figures import Results
from benchmarks.copying.in_short import in_short
from benchmarks.copying.methods import NAMES
from benchmarks.copying.page import page_of, write_page
from benchmarks.copying.plan import Cell, Plan, published
from tests.benchmarks.copying.cells import TINY_PROTOCOL, fixture_cell

OWN = {"base": 0.2, "none": 1.0, "oracle": 0.2, "dedup": 0.9, "dedup_phash": 0.25, "ours_sieve": 0.3,
       "dedup_sieve": 0.2, "stop_2": 0.9, "stop_4": 0.6, "stop_8": 0.3}  # fmt: skip


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = Plan(tmp_path / "work", tmp_path / "docs" / "benchmarks" / "copying", TINY_PROTOCOL)
    for method, own in OWN.items():
        cell = Cell(method, "mixed", 0)
        write_lines(plan.file(cell), fixture_cell(plan, cell, own, finds=method == "ours_sieve"))
    return plan


def table_of(page: str, title: str) -> dict[str, list[str]]:
    """The rows of the table under a title, by their first column."""
    part = page.split(f"{title}\n", 1)[1]
    lines = part[part.index("|") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_a_page_has_its_numbers_its_plot_and_what_is_missing(plan: Plan, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "benchmarks-copying.md"
    write_page(page, plan, published(1) + published(2))
    text = page.read_text()
    assert "**10 of 90 cells** are there" in text
    premises = table_of(text, "## What can be shown")
    assert premises["exact 400"][0].startswith("0.00 (") and premises["exact 400"][1].startswith("0.80 (")
    assert premises["exact 400"][2] == "yes" and "exact 20" not in premises  # nobody drew that one
    back = table_of(text, "### What comes back: excess, by pixels")
    assert list(back) == [NAMES[name] for name in NAMES if name in OWN or name == "stop"]
    assert back["exact dedup"][5].startswith("0.70 (") and back["exact dedup"][-1].startswith("0.00 (")
    assert (tmp_path / "docs" / "benchmarks" / "copying.png").stat().st_size > 10_000
    assert "](benchmarks/copying.png)" in text
    assert "| mixed | the paper's rule, best τ, drop |  (missing: 0, 1, 2) |" in text
    assert not re.search(r"\bnan\b|None|\{", text)


def test_the_page_tells_which_groups_were_found(plan: Plan, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    write_page(page, plan, published(1))
    assert "### Found groups" not in page.read_text()
    told = {
        "descriptor": "sscd", "threshold": 0.8123, "check": {"mean_recall": 0.973}, "rows": 700,
        "together": {"exact 400": 1.0, "family 400": 0.94}, "ordinary": 560, "ordinary_joined": 3,
    }  # fmt: skip
    cell = Cell("found_once", "mixed", 0)
    write_lines(plan.file(cell), fixture_cell(plan, cell, 0.2, found=told))
    write_page(page, plan, published(1))
    found = table_of(page.read_text(), "### Found groups")
    assert found == {"0": ["sscd", "0.812", "97%", "1.00", "0.94", "3 of 560"]}


def test_what_was_made_with_other_settings_is_left_out_and_said(plan: Plan, tmp_path: Path) -> None:
    cell = Cell("ours", "mixed", 0)
    write_lines(plan.file(cell), fixture_cell(plan, cell, 0.5) | {"hash": "another"})
    page = tmp_path / "docs" / "page.md"
    write_page(page, plan, published(1))
    assert "1 cell made with other settings left out." in page.read_text()


def test_small_sets_stand_beside_the_run_without_a_filter_and_say_whether_it_was_said_in_time(
    plan: Plan, tmp_path: Path
) -> None:
    def write(method: str, own: float, copies: float, **more: object) -> None:
        for seed in (0, 1):
            cell = Cell(method, "small 20", seed)
            told = fixture_cell(plan, cell, 0.2, **more)
            for pair in told["drawn"].values():
                if pair["case"] == "ordinary":
                    pair |= {"own pixel_l2": own, "copies pixel_l2": [int(copies > 0.5), 0]}
            write_lines(plan.file(cell), told)

    looks = [{"step": 0, "said": False, "copies": 0.01, "copied": ["o1"]},
             {"step": 40, "said": True, "copies": 0.01, "copied": ["o1"]},
             {"step": 80, "said": True, "copies": 0.3, "copied": ["o1", "o2"]}]  # fmt: skip
    write("none", 0.8, 1.0)
    write("retire", 0.3, 0.0)
    write("watched", 0.8, 1.0, watched=looks)
    page = tmp_path / "page.md"
    write_page(page, plan, published(3))
    text = page.read_text()
    rows = [line for line in text.split("## Small sets")[1].splitlines() if line.startswith("| 20 pairs")]
    ours = next(row.split("|") for row in rows if "memsieve, retire" in row)
    assert ours[8].strip().startswith("0.17 (") and ours[9].strip().startswith("0.00 (")
    said = next(line for line in text.split("### Is it said in time?")[1].splitlines() if line.startswith("| 20 | 0 |"))
    assert said == "| 20 | 0 | 2 | 40 | 80 | 80 | 0.3 |"


def test_no_page_of_nothing(tmp_path: Path) -> None:
    write_page(tmp_path / "page.md", Plan(tmp_path, tmp_path / "none", TINY_PROTOCOL), published(1))
    assert not (tmp_path / "page.md").exists()


def test_the_first_paragraph_says_where_dedup_is_enough_by_the_numbers(plan: Plan) -> None:
    def said(own: float) -> str:
        results, _ = Results.read(plan.results, lambda cell: True)
        for told in results.cells["dedup", "mixed", 0]["drawn"].values():
            if told["case"] == "exact 400":
                told["own pixel_l2"] = own
        return " ".join(in_short(results).split())

    assert "- Exact repeats, 400 exposures: no filter 0.80; exact dedup 0.05;" in said(0.25)
    assert "Where your repeats are exact repeats, exact dedup is enough, and it is free." in said(0.25)
    assert "It is not enough for one picture under many files." in said(0.25)
    assert "Exact dedup is not enough for exact repeats and one picture under many files." in said(0.9)
    assert in_short(Results({})) == ""


def test_cases_that_cannot_show_anything_are_in_brackets_and_not_in_short(plan: Plan) -> None:
    results, _ = Results.read(plan.results, lambda cell: True)
    for told in results.cells["none", "mixed", 0]["drawn"].values():
        if told["case"] == "family 400":
            told["own pixel_l2"] = 0.3
    page = page_of(results, published(1))
    assert "| (family 400) |" in page and "| exact 400 |" in page
    assert "under many files" not in in_short(results)
