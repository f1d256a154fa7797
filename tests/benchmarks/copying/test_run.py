"""The command: cells each once, in the order in which they need each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.common import write_lines
from benchmarks.copying import run
from benchmarks.copying.plan import Cell, Plan
from tests.benchmarks.copying.cells import TINY_PROTOCOL


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def fake(plan: Plan, cell: Cell, note: Any) -> None:
        names.append(cell.name)
        write_lines(plan.file(cell), {"hash": plan.hash(cell)})

    monkeypatch.setattr(run, "run_cell", fake)
    return names


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path / "work", tmp_path / "results", TINY_PROTOCOL)


def test_a_method_that_needs_another_cell_gets_it_first_and_none_runs_twice(plan: Plan, ran: list[str]) -> None:
    wanted = [Cell(name, "mixed", 0) for name in ("paper", "paper_reweight", "random_drop")]
    run.run_cells(plan, wanted)
    assert ran == ["tune_paper-mixed-seed1000", "paper-mixed-seed0", "paper_reweight-mixed-seed0", "ours-mixed-seed0",
                   "random_drop-mixed-seed0"]  # fmt: skip
    run.run_cells(plan, wanted)
    assert len(ran) == 5


def test_a_cell_that_another_process_runs_is_left_to_it(plan: Plan, ran: list[str]) -> None:
    with run._claimed(plan, Cell("none", "mixed", 0)) as mine:
        assert mine
        run.run_cells(plan, [Cell("none", "mixed", 0), Cell("base", "mixed", 0)])
    assert ran == ["base-mixed-seed0"]
    run.run_cells(plan, [Cell("none", "mixed", 0)])
    assert ran == ["base-mixed-seed0", "none-mixed-seed0"]


def test_what_needs_a_cell_that_another_process_makes_waits_for_it(
    plan: Plan, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with run._claimed(plan, Cell("ours", "mixed", 0)):
        run.run_cells(plan, [Cell("random_drop", "mixed", 0)])
    assert ran == [] and "waits for ours-mixed-seed0" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--methods", "magic"], "'magic' is not one of base, none"),
        (["--methods", "none", "--streams", "river"], "'river' is not one of mixed, small 20"),
        (["--seeds", "one"], "separated by commas"),
    ],
)
def test_bad_options_are_named(options: list[str], said: str) -> None:
    app = typer.Typer()
    app.command()(run.main)
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())
