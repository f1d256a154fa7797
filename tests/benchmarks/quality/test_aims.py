"""What was aimed at: an aim that is missed is said to be missed, and nothing is said where nothing was measured."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.quality.aims import RIVALS, RULES, aims
from benchmarks.quality.figures import Results
from benchmarks.quality.methods import METHODS, NAMES
from tests.benchmarks.quality.cells import fixture_cell

LEVELS = ["level 20", "level 100", "level 200"]
OURS = "memsieve, in the batch"


def rows(cells: dict[str, dict[str, Any]], levels: list[str] = LEVELS) -> dict[str, tuple[str, str]]:
    """Aim -> what was measured, and whether it was met."""
    text = aims(Results({(method, "planted", 0): cell for method, cell in cells.items()}), levels)
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| memsieve")]
    return {what: (measured, met) for what, measured, met in lines}


def generated(cell: dict[str, Any], **copies: list[list[int]]) -> dict[str, Any]:
    """The cell, of which pairs of each ``level_N`` come back so."""
    cell["generations"] = {
        f"{level} {number}": {"case": level.replace("_", " "), "copies": drawn, "own": drawn}
        for level, pairs in copies.items()
        for number, drawn in enumerate(pairs)
    }
    return cell


def test_rivals_are_methods_that_know_no_truth_and_are_not_ours() -> None:
    for name in {*RIVALS, *RULES}:
        assert name in METHODS and name in NAMES
        assert METHODS[name].score not in ("evidence", "removed"), name


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


@pytest.mark.parametrize(("dropped", "met"), [(19, "yes"), (18, "**no**")])
def test_ninety_five_of_a_hundred_is_the_aim_and_less_is_missed(dropped: int, met: str) -> None:
    cell = fixture_cell("ours", 0, found=True)
    cell["pairs"] = [{**cell["pairs"][0], "pair": f"p{i}", "dropped": i < dropped} for i in range(20)]
    assert rows({"ours": cell})[f"{OURS}: dropped at 100 exposures, at least .95"][1] == met


@pytest.mark.parametrize(("loss", "met"), [(1.009, "yes"), (1.011, "**no**"), (0.9, "yes")])
def test_a_held_out_loss_beyond_one_percent_of_the_oracles_is_missed(loss: float, met: str) -> None:
    cells = {"ours": fixture_cell("ours", 0, True, held_out=[loss, loss]),
             "oracle": fixture_cell("oracle", 0, True, held_out=[1.0, 1.0])}  # fmt: skip
    assert rows(cells)[f"{OURS}: held-out loss within 1 % of the oracle's"][1] == met


def test_a_higher_level_that_is_not_copied_makes_nothing_early() -> None:
    """That none of the pairs at 200 came back says nothing of when those at 100 are copied: no visit of theirs is
    later than 100."""
    cells = {name: fixture_cell(name, 0, found=name == "ours") for name in ("ours", "none")}
    aim = f"{OURS}: pairs at 100 dropped before they are copied"
    generated(cells["none"], level_100=[[1, 1]], level_200=[[0, 0]])
    assert aim not in rows(cells)
    generated(cells["none"], level_20=[[0, 0]], level_100=[[1, 1]], level_200=[[0, 0]])
    assert rows(cells)[aim] == ("median visit 42; no filter copies none of the pairs with 20 exposures", "**no**")


def test_what_comes_back_is_held_against_the_best_rival_and_a_tie_is_missed() -> None:
    """Of two rivals one lets a quarter come back, as ours does; only less, or nothing, is below."""
    half, quarter, none = [[1, 1, 0, 0]], [[1, 0, 0, 0]], [[0, 0, 0, 0]]
    aim = f"{OURS}: copy rate at 100 below every rival's, or 0"

    def said(ours: list[list[int]], best: list[list[int]]) -> str:
        drawn = {"none": [[1, 1, 1, 1]], "ours": ours, "paper": half, "cap": best}
        cells = {name: generated(fixture_cell(name, 0, False), level_100=pairs) for name, pairs in drawn.items()}
        return rows(cells)[aim][1]

    assert said(quarter, half) == "yes" and said(quarter, quarter) == "**no**" and said(half, quarter) == "**no**"
    assert said(none, none) == "yes"


def test_what_the_unfiltered_run_does_not_copy_is_no_aim() -> None:
    cells = {name: generated(fixture_cell(name, 0, False), level_100=[[0, 0]]) for name in ("none", "ours", "cap")}
    assert not [aim for aim in rows(cells) if "below every rival's" in aim or "before they are copied" in aim]


def test_intervals_that_lie_apart_do_not_overlap() -> None:
    """All of 40 pairs come back, and none of the oracle's: missed. Two more or less may be chance: met."""
    aim = f"{OURS}: copy rate at 100, interval overlaps the oracle's"

    def said(ours: int, oracle: int) -> str:
        counts = {"none": 40, "ours": ours, "oracle": oracle}
        cells = {
            name: generated(fixture_cell(name, 0, False), level_100=[[int(i < count)] for i in range(40)])
            for name, count in counts.items()
        }
        return rows(cells)[aim][1]

    assert said(40, 0) == said(0, 40) == "**no**" and said(2, 0) == "yes"


def test_without_our_methods_there_is_no_table() -> None:
    assert aims(Results({("paper", "planted", 0): fixture_cell("paper", 0, True)}), LEVELS) == ""
