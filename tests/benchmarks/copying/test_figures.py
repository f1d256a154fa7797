"""From cells to figures: excess, what counts, what was learned, pooled over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import write_lines
from benchmarks.copying.figures import Results
from benchmarks.copying.plan import Cell, Plan
from tests.benchmarks.copying.cells import TINY_PROTOCOL, fixture_cell


def results_of(*cells: tuple[str, int, float, bool], **more: Any) -> Results:
    """(method, seed, own, found) each, on the mixed stream."""
    plan = Plan(Path(), Path(), TINY_PROTOCOL)
    made = {(m, "mixed", seed): fixture_cell(plan, Cell(m, "mixed", seed), own, found, **more)
            for m, seed, own, found in cells}  # fmt: skip
    return Results(made)  # type: ignore[arg-type]


def test_an_excess_is_beyond_the_same_models_held_out_pairs_pooled_over_seeds() -> None:
    results = results_of(("none", 0, 1.0, False), ("none", 1, 0.5, False))
    found = results.excess("none", "mixed", "exact 400")
    assert found is not None
    assert (found.rate, found.held_out) == pytest.approx((0.75, 0.2)) and found.difference == pytest.approx(0.55)
    assert len(results.rates("none", "mixed", "exact 400")) == 12
    ordinary = results.excess("none", "mixed", "ordinary")
    assert ordinary is not None and ordinary.difference == pytest.approx(0.0)
    assert results.excess("ours", "mixed", "exact 400") is None


@pytest.mark.parametrize(("base", "none", "counts"), [(0.2, 0.9, True), (0.2, 0.5, False), (0.4, 0.9, False)])
def test_a_case_counts_where_the_unfiltered_run_copies_it_and_the_base_does_not(
    base: float, none: float, counts: bool
) -> None:
    results = results_of(("base", 0, base, False), ("none", 0, none, False))
    assert results.counts("mixed", "exact 400") is counts
    assert results_of(("none", 0, none, False)).counts("mixed", "exact 400") is None


def test_cases_are_those_of_the_stream() -> None:
    cases = results_of(("none", 0, 1.0, False)).cases("mixed")
    assert cases[:5] == ["exact 20", "exact 50", "exact 100", "exact 200", "exact 400"] and len(cases) == 8
    assert results_of(("none", 0, 1.0, False)).cases("paper") == []


def test_copies_are_shares_of_drawings_and_what_was_learned_is_of_held_out_captions() -> None:
    results = results_of(("ours", 0, 0.75, False))  # one drawing a caption, and it is a copy
    copies = results.copies("ours", "mixed", "exact 400")
    assert copies is not None and copies.value == 1.0
    learned = results.recognised("ours", "mixed")
    assert learned is not None and (learned.value, learned.pairs) == (0.5, 50)
    assert results.copies("none", "mixed", "exact 400") is None and results.recognised("none", "mixed") is None


def test_dropped_pairs_rank_first_and_ordinary_ones_too() -> None:
    results = results_of(("ours", 0, 0.0, True), ("ours", 1, 0.0, False))
    found, dropped = results.found("ours", "mixed", "exact 400"), results.dropped("ours", "mixed", "exact 400")
    # Score .5 lies among the ordinary ones'; 5.0, dropped, lies above the one ordinary pair that was dropped.
    assert found is not None and found.value == 0.5 and dropped is not None and dropped.value == 0.5
    ordinary, rare = (results.dropped("ours", "mixed", kind) for kind in ("ordinary", "rare"))
    assert ordinary is not None and (ordinary.value, ordinary.pairs) == (2 / 80, 80)
    assert rare is not None and (rare.value, rare.pairs) == (0.0, 20)


def test_held_out_loss_is_over_the_seeds_that_both_have() -> None:
    results = results_of(("oracle", 0, 0.0, False), ("none", 0, 1.0, False), ("none", 1, 1.0, False))
    held = results.held_out("none", "mixed")
    assert held is not None and held.value == pytest.approx(1.1)
    assert results.held_out_by_seed("none", "mixed") == pytest.approx([1.1])
    assert results.held_out("none", "mixed", against="base") is None


def test_the_best_early_stop_is_chosen_by_seed_where_all_were_run() -> None:
    names = ("none", "stop_2", "stop_4", "stop_8")
    results = results_of(*[(name, seed, 0.5, False) for name in names for seed in (0, 1)], ("none", 2, 0.5, False))
    results.cells["stop_4", "mixed", 0]["held_out"] = [0.1, 0.1, 0.1]
    results.cells["none", "mixed", 1]["held_out"] = [0.1, 0.1, 0.1]
    assert [(cell["method"], cell["seed"]) for cell in results.of("stop", "mixed")] == [("stop_4", 0), ("none", 1)]


def test_how_often_ordinary_pairs_came_round() -> None:
    results = results_of(("ours", 0, 0.5, False), ("oracle", 0, 0.5, False))
    assert results.rounds("ours", "mixed") == 5.0  # by the ledger
    del results.cells["oracle", "mixed", 0]["singles"]["ordinary"]["visits"]
    assert results.rounds("oracle", "mixed") == 600 * 4 / 200  # steps x batch over its rows
    del results.cells["oracle", "mixed", 0]["steps"]
    assert results.rounds("oracle", "mixed") is None
    assert results.mean("ours", "mixed", "updates") == 600 and results.mean("none", "mixed", "updates") is None


def test_cells_of_other_settings_are_counted_and_not_read(tmp_path: Path) -> None:
    plan = Plan(tmp_path, tmp_path, TINY_PROTOCOL)
    for seed in (0, 1):
        cell = Cell("none", "mixed", seed)
        write_lines(plan.file(cell), fixture_cell(plan, cell, 0.5))
    results, stale = Results.read(tmp_path, lambda cell: cell["seed"] == 1)
    assert list(results.cells) == [("none", "mixed", 1)] and stale == 1
