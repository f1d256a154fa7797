"""A cell that was stopped, and one whose code has changed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.copying.rivals import LossBelowAverage
from benchmarks.deciding import code_of_decisions
from benchmarks.quality.cell import Cell, Plan, run_cell
from benchmarks.quality.methods import METHODS
from memsieve.filtering.types import Measurement
from tests.benchmarks.quality.conftest import plan_at


def test_a_stopped_cell_goes_on_where_it_stopped(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, notes = Cell("iet_agc", "planted", 0), []  # type: tuple[Cell, list[str]]
    whole = run_cell(plan_at(tmp_path / "..", data, f"{tmp_path.name}-whole"), cell, notes.append)
    plan = plan_at(tmp_path, data)
    learn, calls = LossBelowAverage.learn, []  # type: ignore[var-annotated]

    def interrupted(self: Any, measurement: Measurement) -> None:
        learn(self, measurement)
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(LossBelowAverage, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_cell(plan, cell, notes.append)
    assert plan.result(cell) is None
    resumed = run_cell(plan, cell, notes.append)
    assert "iet_agc-planted-seed0: training, step 2 of 4" in notes  # the window in which the signal came is the last
    for name in ("pairs", "singles", "held_out", "generations", "read", "dropped"):
        assert resumed[name] == whole[name], name


def test_the_loaders_code_counts_for_methods_at_the_loader_alone(tmp_path: Path) -> None:
    plan = Plan(tmp_path, tmp_path)
    decided_by = {name: plan.settings(Cell(name, "planted", 0)).get("decided_by") for name in METHODS}
    assert decided_by["ours"] == decided_by["ours_ratio"] == code_of_decisions(at_the_loader=False)
    assert decided_by["ours_sieve"] == decided_by["ours_phash"] == code_of_decisions(at_the_loader=True)
    assert decided_by["paper"] is None
