"""What a cell's numbers depend on, and which cells are published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.copying.data import MIXED
from benchmarks.copying.methods import METHODS
from benchmarks.copying.plan import TUNED, VALIDATION_SEED, Cell, Plan, Protocol, published, weights_of
from benchmarks.deciding import code_of_decisions
from tests.benchmarks.copying.cells import TINY_PROTOCOL, fixture_cell


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path / "work", tmp_path / "results", TINY_PROTOCOL)


def test_a_result_counts_while_nothing_that_it_depends_on_has_changed(plan: Plan) -> None:
    from benchmarks.common import write_lines

    cell = Cell("none", "mixed", 0)
    assert plan.result(cell) is None
    write_lines(plan.file(cell), fixture_cell(plan, cell, own=0.9))
    assert plan.result(cell) is not None
    assert replace(plan, protocol=replace(TINY_PROTOCOL, lr=0.1)).result(cell) is None
    other = replace(plan, streams={**plan.streams, "mixed": replace(MIXED, rare=1)})
    assert other.result(cell) is None
    drawing = replace(TINY_PROTOCOL.drawing, guidance_scale=1.0)
    assert replace(plan, protocol=replace(TINY_PROTOCOL, drawing=drawing)).result(cell) is None


def test_another_base_is_another_measurement(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "base" / "unet" / "weights.safetensors"
    file.parent.mkdir(parents=True)
    hashes = set()
    for content in (b"one", b"two"):
        weights_of.cache_clear()
        file.write_bytes(content)
        hashes.add(replace(plan, protocol=Protocol(str(tmp_path / "base"))).hash(Cell("none", "mixed", 0)))
    assert len(hashes) == 2
    with pytest.raises(ValueError, match=r"no base at .*; build it with python -m scripts.tiny_icons.build"):
        weights_of(tmp_path / "nowhere")


def test_the_code_that_decides_counts_for_memsieves_own_methods_alone(plan: Plan) -> None:
    decided_by = {name: plan.settings(Cell(name, "mixed", 0)).get("decided_by") for name in METHODS}
    assert decided_by["ours"] == decided_by["ours_reweight"] == code_of_decisions(at_the_loader=False)
    assert decided_by["ours_sieve"] == decided_by["dedup_sieve"] == code_of_decisions(at_the_loader=True)
    assert decided_by["retire"] == decided_by["watched"] == code_of_decisions(False, True)
    assert all(decided_by[name] is None for name in ("none", "paper", "iet_agc", "cap", "dedup"))


def test_what_a_cell_needs_is_part_of_what_it_depends_on(plan: Plan) -> None:
    paper, drop = Cell("paper", "mixed", 0), Cell("random_drop", "mixed", 2)
    assert plan.needs(paper) == plan.needs(Cell("paper_reweight", "mixed", 1)) == Cell(
        "tune_paper", "mixed", VALIDATION_SEED)  # fmt: skip
    assert plan.needs(drop) == Cell("ours", "mixed", 2) and plan.needs(Cell("ours", "mixed", 2)) is None
    assert plan.needs(Cell("paper_anchored", "paper", 0)) == Cell("tune_paper_anchored", "paper", VALIDATION_SEED)
    assert all(
        METHODS[name].settings[0] == f"filter.signals=[{signal}]"
        for name, signal in TUNED.items()
        if signal != "magnitude"
    ) and set(TUNED) <= set(METHODS)
    assert plan.settings(paper)["needs"] == plan.hash(Cell("tune_paper", "mixed", VALIDATION_SEED))


def test_the_first_seed_is_published_whole_before_the_next() -> None:
    cells = published(1)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert len(set(cells)) == len(cells) == 72
    assert {cell.seed for cell in published(1, (1,))} == {1}
    assert {cell.seed for cell in published(2)} == {0}
    assert {cell.seed for cell in published(3) if cell.method in ("retire", "watched")} == {0, 1, 2}


def test_what_came_later_changes_no_cell_that_does_without(plan: Plan) -> None:
    said = plan.settings(Cell("none", "mixed", 0))["method"]
    assert not {"advised", "of", "watched"} & set(said)
    assert plan.settings(Cell("retire", "small 20", 0))["method"]["advised"] is True
    assert plan.needs(Cell("retire_last", "small 20", 2)) == Cell("retire", "small 20", 2)


def test_names_of_files_have_no_blanks(plan: Plan) -> None:
    assert plan.file(Cell("none", "small 20", 1)).name == "none-small-20-seed1.json"
