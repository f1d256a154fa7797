"""Cells from the data to their numbers, on a tiny stream."""

from __future__ import annotations

import json
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.copying.cell import run_cell
from benchmarks.copying.data import build
from benchmarks.copying.drawings import JUDGES
from benchmarks.copying.found import find_groups
from benchmarks.copying.learned import encoder_at
from benchmarks.copying.methods import METHODS
from benchmarks.copying.plan import Cell, Plan
from benchmarks.copying.rivals import LossBelowAverage
from memsieve.filtering.types import Measurement
from tests.benchmarks.copying.cells import TINY_PROTOCOL
from tests.benchmarks.copying.conftest import TINY

Made = tuple[Path, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    encoder_at(file, TINY.limit, epochs=1)
    return file


@pytest.fixture
def plan(made: Made, encoder: Path, tmp_path: Path) -> Plan:
    work = tmp_path / "work"
    (work / "data").mkdir(parents=True)
    (work / "data" / "mixed-seed1").symlink_to(made[0])
    return Plan(work, tmp_path / "results", TINY_PROTOCOL, {"mixed": TINY}, encoder)


def test_what_is_read_is_what_the_pairs_were_visited_and_all_are_drawn(plan: Plan) -> None:
    cell, notes = Cell("ours", "mixed", 1), []  # type: tuple[Cell, list[str]]
    run_cell(plan, cell, notes.append)
    found = json.loads(plan.file(cell).read_text())
    assert found["steps"] == 4 and found["read"] == 16
    told = [pair.get("visits", 0) for pair in found["pairs"]]
    told += [visits or 0 for column in found["singles"].values() for visits in column.get("visits", [])]
    assert sum(told) == found["read"]
    assert {pair["case"] for pair in found["pairs"]} == {"exact 20", "family 30", "template 30", "paraphrase 30"}
    cases = [pair["case"] for pair in found["drawn"].values()]
    assert {case: cases.count(case) for case in cases} == {
        "exact 20": 1, "family 30": 1, "template 30": 1, "paraphrase 30": 1, "ordinary": 2, "held_out": 60,
    }  # fmt: skip
    for pair in found["drawn"].values():
        assert all(0.0 <= pair[f"own {judge}"] <= 1.0 for judge in JUDGES)
        assert ("recognised" in pair) == (pair["case"] == "held_out")
    kept = torch.load(plan.drawn_file(cell), weights_only=True)
    assert kept["pairs"] == list(found["drawn"]) and kept["drawn"].shape == (66, 1, 3, 32, 32)
    assert not (plan.run_folder(cell) / "checkpoints").exists()
    assert plan.result(cell) is not None


def test_the_base_is_asked_without_training(plan: Plan) -> None:
    found = run_cell(plan, Cell("base", "mixed", 1), lambda _: None)
    assert "steps" not in found and "score" not in found["pairs"][0]
    assert len(found["drawn"]) == 66 and len(found["held_out"]) > 30


def test_a_stopped_cell_goes_on_where_it_stopped(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, notes = Cell("iet_agc", "mixed", 1), []  # type: tuple[Cell, list[str]]
    whole = run_cell(plan, cell, notes.append)
    plan.file(cell).unlink()
    plan.run_folder(cell).rename(tmp_path / "whole")
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
    assert "iet_agc-mixed-seed1: training, step 2 of 4" in notes  # the window in which the signal came is the last
    for name in ("pairs", "singles", "held_out", "drawn", "read", "dropped"):
        assert resumed[name] == whole[name], name


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("method", ["none", "oracle", "dedup", "cap", "stop_2", "ours_reweight", "ours_sieve",
                                    "dedup_sieve", "random_tokens", "paper", "random_drop", "retire", "retire_last",
                                    "retire_prior", "watched", "lora_4", "dedup_found", "found_all",
                                    "found_once"])  # fmt: skip
def test_every_kind_of_method_runs(
    plan: Plan, method: str, tmp_path: Path, coarse: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell(method, "mixed", 1)
    if METHODS[method].groups:
        data = plan.work / "data" / "mixed-seed1"
        shutil.copytree(data.resolve(), tmp_path / "own")
        data.unlink()
        (tmp_path / "own").rename(data)
        monkeypatch.setattr("benchmarks.copying.cell.find_groups", partial(find_groups, described=(coarse,)))
    if (needed := plan.needs(cell)) is not None:
        build(plan.work / "data" / f"mixed-seed{needed.seed}", TINY, needed.seed)
        with pytest.raises(ValueError, match=f"needs {needed.name} first"):
            run_cell(plan, cell, lambda _: None)
        run_cell(plan, needed, lambda _: None)
    found = run_cell(plan, cell, lambda _: None)
    assert found["steps"] == (2 if method == "stop_2" else 4)
    assert all(loss > 0 for loss in found["held_out"]) and len(found["drawn"]) == 66
    assert (found["tuned"] is not None) == (needed is not None and method != "retire_last")
    if method == "watched":
        assert [look["step"] for look in found["watched"]] == [0, 1, 2, 3, 4]
    assert ("use" in found and found["use"] is not None) == ("retire" in method or method == "watched")
    assert ("found" in found) == METHODS[method].groups
    told = [pair.get("visits", 0) for pair in found["pairs"]]
    told += [visits or 0 for column in found["singles"].values() for visits in column.get("visits", [])]
    if method == "found_once":
        assert sum(told) == found["trained"] + sum(found["dropped"].values()) < found["read"], "repeats are no visits"
