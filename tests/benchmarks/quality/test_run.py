"""The command: cells from the data to their numbers, each once, in the order in which they need each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.common import write_lines as write
from benchmarks.quality import run
from benchmarks.quality.cell import Cell, Plan
from tests.benchmarks.quality.conftest import PROTOCOL, plan_at, truth_of


def test_a_cell_from_the_data_to_its_numbers_and_not_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, cell = plan_at(tmp_path, data), Cell("ours", "planted", 0)
    run.run_cells(plan, [cell])
    found = json.loads(plan.file(cell).read_text())
    assert found["steps"] == 4
    assert found["read"] == 32
    assert len(found["pairs"]) == 7
    told = [pair.get("visits", 0) for pair in found["pairs"]]
    told += [visits or 0 for column in found["singles"].values() for visits in column.get("visits", [])]
    assert sum(told) == found["read"]
    assert len(found["held_out"]) == len(truth_of(data, "held_out"))
    assert len(found["generations"]) == 7 + 2
    monkeypatch.setattr(run, "run_cell", lambda *_: pytest.fail("the cell was run again"))
    run.run_cells(plan, [cell])
    changed = replace(plan, protocol=replace(PROTOCOL, lr=1e-4))
    assert changed.result(cell) is None  # other settings: it must be run again


def test_a_method_that_needs_another_cell_gets_it_first(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    ran: list[str] = []

    def fake(plan: Plan, cell: Cell, note: Any) -> None:
        ran.append(cell.name)
        write(plan.file(cell), {"hash": plan.hash(cell)})

    monkeypatch.setattr(run, "run_cell", fake)
    run.run_cells(plan_at(tmp_path, data), [Cell("paper", "planted", 0), Cell("random_drop", "planted", 0)])
    assert ran == ["tune_paper-planted-seed1000", "paper-planted-seed0", "ours-planted-seed0",
                   "random_drop-planted-seed0"]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--methods", "magic"], "'magic' is not one of"), (["--seeds", "one"], "separated by commas")],
)
def test_bad_options_are_named(options: list[str], said: str) -> None:
    app = typer.Typer()
    app.command()(run.main)
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())
