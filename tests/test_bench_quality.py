"""The planted-duplicates benchmark: its data, the rivals' rules, and cells end to end."""

from __future__ import annotations

import json
import math
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.ledger import Ledger
from memsieve.filtering.types import Action, Measurement, Reason, Verdict, Visit

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import bench_code
import bench_quality
import bench_quality_cell
from bench_quality_cell import Cell, Plan, Protocol, run_cell
from bench_quality_data import Spec, build
from bench_quality_measure import _margin, decisions, thresholds
from bench_rivals import LossBelowAverage, RandomDrop

SPEC = Spec(levels=((6, 2), (12, 2)), hard_pairs=1, hard_repeats=8, rare=6, clean=30, passes=2, shards=8, limit=400)
PROTOCOL = Protocol(steps=4, held_out_max=100, held_out_draws=1, images=1, ordinary=2, sampling_steps=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality") / "data" / "seed0"
    build(folder, 0, SPEC)
    return folder


def plan_at(folder: Path, data: Path, results: str = "results") -> Plan:
    (folder / "work").mkdir(exist_ok=True)
    if not (folder / "work" / "data").exists():
        (folder / "work" / "data").symlink_to(data.parent)
    return Plan(folder / "work", folder / results, SPEC, PROTOCOL)


def truth_of(data: Path, part: str) -> list[dict[str, Any]]:
    return [row for row in pq.read_table(data / "truth.parquet").to_pylist() if row["part"] == part]


# -- the data -------------------------------------------------------------------------------------------------------


def test_the_stream_holds_what_the_spec_says(data: Path) -> None:
    stream = truth_of(data, "stream")
    counts: dict[str, set[str]] = {}
    for row in stream:
        counts.setdefault(row["case"], set()).add(row["pair"])
    assert {case: len(pairs) for case, pairs in counts.items()} == {
        "level 12": 2, "level 24": 2, "paraphrase": 1, "near_duplicate": 1, "template": 1, "rare": 6, "clean": 30,
    }  # fmt: skip
    assert len(stream) == 2 * 6 + 2 * 12 + 3 * 8 + 36
    held = {row["base"] for row in truth_of(data, "held_out")}
    assert held
    assert not held & {row["base"] for row in stream}


def test_hard_cases_are_what_they_are_called(data: Path) -> None:
    def distinct(case: str) -> tuple[int, int]:
        rows = [row for row in truth_of(data, "stream") if row["case"] == case]
        return len({row["group"] for row in rows}), len({row["caption"] for row in rows})

    images, captions = distinct("paraphrase")
    assert images == 1
    assert captions > 3
    for case in ("near_duplicate", "template"):
        images, captions = distinct(case)
        assert images > 5
        assert captions == 1


def test_parts_hold_each_image_and_each_pair_once(data: Path) -> None:
    stream, dedup, oracle = (truth_of(data, part) for part in ("stream", "dedup", "oracle"))
    assert sorted(row["group"] for row in dedup) == sorted({row["group"] for row in stream})
    assert sorted(row["pair"] for row in oracle) == sorted({row["pair"] for row in stream})
    assert len(oracle) < len(truth_of(data, "dedup_phash")) <= len(dedup)


def test_seeds_plant_other_pairs_and_hold_out_the_same(data: Path, tmp_path: Path) -> None:
    build(tmp_path / "seed1", 1, SPEC)

    def planted(folder: Path) -> set[str]:
        return {row["pair"] for row in truth_of(folder, "stream") if row["repeats"] > 1}

    assert planted(data) != planted(tmp_path / "seed1")
    held = [{row["group"] for row in truth_of(folder, "held_out")} for folder in (data, tmp_path / "seed1")]
    assert held[0] == held[1]


# -- the rivals' rules ----------------------------------------------------------------------------------------------


def test_iet_agc_skips_losses_far_below_the_average_at_their_timestep() -> None:
    rule = LossBelowAverage(ratio=1.25, decay=0.8, timesteps=10)
    visit = Visit("a")
    assert rule.margin(visit, 0.001, 5) == -math.inf  # the average starts at 0
    rule.learn(Measurement({"loss": torch.ones(2)}, np.array([5, 5]), np.ones(2, dtype=bool)))
    assert rule.average[5] == pytest.approx(0.8 * 0.2 + 0.2)  # 0.36
    assert rule.margin(visit, 0.28, 5) == pytest.approx(math.log(0.36 / 0.35))
    assert rule.margin(visit, 0.30, 5) < 0.0  # 0.375 > 0.36
    assert rule.margin(visit, 0.28, 4) == -math.inf
    other = LossBelowAverage(timesteps=10)
    other.load_state_dict(rule.state_dict())
    assert other.average[5] == rule.average[5]


def test_a_rival_decides_a_whole_batch_before_it_learns_from_it() -> None:
    config = FilterConfig(
        signals=["loss"], record=[], calibrator="fixed", threshold=1e9, decide="visit", normalize="kept"
    )
    rule = LossBelowAverage(timesteps=1000)
    rule.average[7] = 0.5
    rival = MemorizationFilter(config, rule=rule)
    losses = torch.tensor([0.1, 0.45, 0.1])
    usable = np.array([True, True, False])
    decision = rival.decide(
        [Visit("a"), Visit("b"), Visit("c")], Measurement({"loss": losses}, np.array([7, 7, 7]), usable)
    )
    # 0.1 * 1.25 < 0.5: skipped, captioned or not; 0.45 * 1.25 > 0.5: kept.
    assert decision.weights.tolist() == [0.0, 1.0, 0.0]
    assert float(decision.reduce(losses)) == pytest.approx(0.45)  # the mean over what was kept
    average = 0.5
    for loss in losses.tolist():
        average = 0.8 * average + 0.2 * loss
    assert rule.average[7] == pytest.approx(average)
    for state in (rival.state_dict(), rival.local_state_dict()):  # what a checkpoint of a run holds
        again = MemorizationFilter(config, rule=LossBelowAverage(timesteps=1000))
        again.load_state_dict(state)
        assert again.rule.state_dict()["average"].tolist() == rule.average.tolist()


def test_random_drop_is_a_function_of_the_position() -> None:
    rule = RandomDrop(0.3, seed=1)
    visits = [Visit("a", stream=s, epoch=0, offset=o) for s in range(8) for o in range(250)]
    dropped = [rule.margin(visit, 0.1, 5) > 0 for visit in visits]
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.04)
    assert dropped == [RandomDrop(0.3, seed=1).margin(visit, 0.7, 9) > 0 for visit in visits]


def test_the_papers_threshold_is_chosen_where_planted_and_ordinary_visits_part(data: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    for step, row in enumerate(truth_of(data, "stream")):
        magnitude = 3.0 + 0.01 * (step % 5) if row["repeats"] >= 12 else 1.0 + 0.01 * (step % 5)
        verdict = Verdict(Visit(row["key"]), 1.0, Action.KEEP, Reason.CLEAN, 10, {"magnitude": magnitude})
        ledger.add(step, [verdict])
    ledger.flush()
    found = thresholds(tmp_path, data, passes=2, least=24)
    assert 1.04 <= found["best"] < 3.0
    assert found["best_shares"] == [1.0, 0.0]
    assert 1.0 < found["five"] <= 1.04 and found["five_shares"][1] <= 0.05


def test_what_became_of_each_pair_by_hand(data: Path, tmp_path: Path) -> None:
    """A pair whose last visits were dropped, one whose group was condemned, and one of many images."""
    stream = truth_of(data, "stream")
    pairs = {case: sorted({row["pair"] for row in stream if row["case"] == case}) for case in ("level 24", "clean")}
    late, condemned = pairs["level 24"]
    near = [row for row in stream if row["case"] == "near_duplicate"]
    visits: dict[str, int] = {}
    ledger = Ledger(tmp_path / "ledger")
    for step, row in enumerate(stream):
        number = visits[row["pair"]] = visits.get(row["pair"], 0) + 1
        dropped = row["pair"] == late and number > 8
        action, reason = (Action.DROP, Reason.CONDEMNED) if dropped else (Action.KEEP, Reason.CLEAN)
        ledger.add(step, [Verdict(Visit(row["key"]), float(not dropped), action, reason)])
    ledger.flush()
    groups = {row["group"]: (0.5, -1) for row in stream}
    groups |= {row["group"]: (7.0, 30) for row in stream if row["pair"] == condemned}
    halves = sorted({row["group"] for row in near})
    groups |= dict.fromkeys(halves[: len(halves) // 2], (4.0, 20))
    pq.write_table(
        pa.table({
            "group": list(groups),
            "evidence_max": [value for value, _ in groups.values()],
            "condemned_step": [step for _, step in groups.values()],
        }),
        tmp_path / "groups.parquet",
    )  # fmt: skip
    found = decisions(tmp_path, data, "stream", "planted", "evidence")
    told = {row["pair"]: row for row in found["pairs"]}
    assert told[late] | {"score": 0} == {"pair": late, "case": "level 24", "repeats": 12, "visits": 12, "trained": 8,
        "late": 1.0, "first": 8, "condemned": 0.0, "dropped": True, "score": 0}  # fmt: skip
    assert (told[condemned]["late"], told[condemned]["condemned"], told[condemned]["dropped"]) == (0.0, 1.0, True)
    assert told[condemned]["score"] == 7.0
    share = sum(row["group"] in halves[: len(halves) // 2] for row in near) / len(near)
    assert told[near[0]["pair"]]["condemned"] == pytest.approx(share, abs=1e-3)
    assert told[near[0]["pair"]]["score"] == pytest.approx(4.0 * share + 0.5 * (1 - share), abs=1e-3)
    assert found["singles"]["clean"]["dropped"] == []
    assert found["singles"]["clean"]["score"] == [0.5] * 30
    removed = decisions(tmp_path / "none", data, "dedup", "planted", "removed")
    assert {row["pair"]: row["score"] for row in removed["pairs"]}[late] == 11.0
    assert {row["pair"]: row["dropped"] for row in removed["pairs"]}[near[0]["pair"]] is False


def test_a_margin_is_log_m_over_tau_or_the_rules_own_number() -> None:
    assert _margin({"magnitude": 2.0 * math.e, "threshold": 2.0, "score": None}) == pytest.approx(1.0)
    assert _margin({"magnitude": None, "threshold": 0.0, "score": -0.3}) == -0.3
    # a group's bar of evidence is no tau: it is infinite before the first look, and may be negative
    assert _margin({"magnitude": 2.0, "threshold": math.inf, "score": 0.5}) == 0.5
    assert _margin({"magnitude": 2.0, "threshold": -1.0, "score": 0.5}) == 0.5


# -- cells ----------------------------------------------------------------------------------------------------------


def test_a_cell_from_the_data_to_its_numbers_and_not_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, cell = plan_at(tmp_path, data), Cell("ours", "planted", 0)
    bench_quality.run_cells(plan, [cell])
    found = json.loads(plan.file(cell).read_text())
    assert found["steps"] == 4
    assert found["read"] == 32
    assert len(found["pairs"]) == 7
    told = [pair.get("visits", 0) for pair in found["pairs"]]
    told += [visits or 0 for column in found["singles"].values() for visits in column.get("visits", [])]
    assert sum(told) == found["read"]
    assert len(found["held_out"]) == len(truth_of(data, "held_out"))
    assert len(found["generations"]) == 7 + 2
    monkeypatch.setattr(bench_quality, "run_cell", lambda *_: pytest.fail("the cell was run again"))
    bench_quality.run_cells(plan, [cell])
    changed = replace(plan, protocol=replace(PROTOCOL, lr=1e-4))
    assert changed.result(cell) is None  # other settings: it must be run again


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


def test_what_the_filter_said_before_it_changed_is_no_result_now(tmp_path: Path) -> None:
    def digest(name: str, code: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.py").write_text(code)
        return bench_code.code_of_decisions(tmp_path / name)

    before = digest("before", '"""One."""\nBAR = 1  # low\n')
    assert digest("words", '"""Two."""\n\nBAR = 1\n') == before
    assert digest("after", '"""One."""\nBAR = 2  # low\n') != before


def test_a_method_that_needs_another_cell_gets_it_first(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    ran: list[str] = []

    def fake(plan: Plan, cell: Cell, note: Any) -> None:
        ran.append(cell.name)
        bench_quality_cell.measure.write(plan.file(cell), {"hash": plan.hash(cell)})

    monkeypatch.setattr(bench_quality, "run_cell", fake)
    bench_quality.run_cells(plan_at(tmp_path, data), [Cell("paper", "planted", 0), Cell("random_drop", "planted", 0)])
    assert ran == ["tune_paper-planted-seed1000", "paper-planted-seed0", "ours-planted-seed0",
                   "random_drop-planted-seed0"]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--methods", "magic"], "'magic' is not one of"), (["--seeds", "one"], "separated by commas")],
)
def test_bad_options_are_named(options: list[str], said: str) -> None:
    import typer
    from typer.testing import CliRunner

    app = typer.Typer()
    app.command()(bench_quality.main)
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())
