"""Two ranks do what one process does, under DDP and DeepSpeed ZeRO 1-3: same verdicts, same update, drops on.

One launch of two processes per engine runs all of its jobs; the tests look at what came out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from memsieve.filtering.ledger import read_ledger
from memsieve.filtering.types import Divisor
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up
from tests.train.conftest import write_shards

pytestmark = pytest.mark.timeout(900)  # the first test of an engine waits for all of its runs
ROWS, TAU = 24, 0.5
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.1, "weight_decay": 0.0, "schedule": "linear"},
    "adamw": {"name": "adamw", "lr": 1e-3, "schedule": "linear"},
}
TOLERANCE = {"sgd": 1e-5, "adamw": 1e-3}
SAME = ["step", "key", "shard", "index", "group", "stream", "epoch", "offset", "action", "reason", "timestep", "weight"]
Case = tuple[str, Divisor, int]
CASES: list[Case] = [("sgd", "eligible", 1), ("sgd", "kept", 3), ("adamw", "eligible", 3), ("adamw", "kept", 1)]
SHORT = {"ddp": CASES[2:], "zero2": CASES[1:2]}
"""What the fast tier runs of it."""
MakeConfig = Callable[..., RunConfig]


def vector(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


def settings(optimizer: str, accumulation: int, ranks: int, **filter: Any) -> dict[str, Any]:
    return {
        "filter": {"signals": ["magnitude"], "rule": "threshold", "threshold": TAU,
                   "ledger_kept": True, **filter},
        "train": {"steps": 3, "batch_size": ROWS // ranks // accumulation, "accumulation": accumulation},
        "optimizer": OPTIMIZERS[optimizer],
    }  # fmt: skip


def by_history(batch: int, accumulation: int) -> dict[str, Any]:
    """Evidence per pair, loose enough that some pairs are condemned in a few steps, whatever the model."""
    return {
        "filter": {"signals": ["loss", "reference_residual"], "false_drop_rate": 0.98, "held_out_per_window": 24,
                   "ledger_kept": True},
        "train": {"steps": 12, "batch_size": batch, "accumulation": accumulation},
        "optimizer": {**OPTIMIZERS["sgd"], "lr": 0.3, "schedule": "constant"},
    }  # fmt: skip


def by_robust_scores(batch: int, accumulation: int) -> dict[str, Any]:
    """Visits among the training samples of all ranks, without held-out pairs, while the magnitudes stay as they are."""
    return {
        "filter": {"signals": ["magnitude"], "rule": "z_score", "threshold": 0.5,
                   "ledger_kept": True},
        "data": {"held_out_path": None, "held_out_fraction": 0.0},
        "train": {"steps": 4, "batch_size": batch, "accumulation": accumulation},
        "optimizer": {**OPTIMIZERS["sgd"], "lr": 1e-3, "schedule": "constant"},
    }  # fmt: skip


def one_epoch(folder: Path, batch: int) -> dict[str, Any]:
    """One pass over shards of 16, 16, 16 and 4 samples: the last window is half full, and rank 1 has nothing in it."""
    sections = settings("sgd", 1, 1)
    return {**sections, "data": {"path": str(folder), "shuffle_buffer": 0},
            "train": {"epochs": 1, "steps": None, "batch_size": batch}}  # fmt: skip


@dataclass
class Alone:
    """What one process makes of the same settings."""

    make_config: MakeConfig
    start: torch.Tensor
    done: dict[str, tuple[torch.Tensor, pa.Table]]

    def run(self, optimizer: str, divides_by: Divisor, name: str = "", **filter: Any) -> tuple[torch.Tensor, pa.Table]:
        name = name or f"one-{optimizer}-{divides_by}"
        if name not in self.done:
            config = self.make_config(name, **settings(optimizer, 1, 1, **filter))
            session = set_up(config)
            assert session.filter is not None
            session.filter.rule.divides_by = divides_by
            fit(session)
            self.done[name] = vector(session.model.state_dict()), read_ledger(config.output / "ledger")
        return self.done[name]


@pytest.fixture(scope="module")
def make_pass_config(make_shared_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> MakeConfig:
    """Configs of runs on data whose pass is three full windows, so that three steps read every sample once."""
    data = write_shards(tmp_path_factory.mktemp("pass") / "train", 3 * ROWS - 24, copies=24)

    def make(output: str, **sections: dict[str, Any]) -> RunConfig:
        return make_shared_config(
            f"passes/{output}", **{**sections, "data": {"path": str(data), **sections.get("data", {})}}
        )

    return make


@pytest.fixture(scope="module")
def alone(make_pass_config: MakeConfig, tiny_model: Path) -> Alone:
    assert "RANK" not in os.environ
    return Alone(make_pass_config, vector(load_file(tiny_model / "unet" / "diffusion_pytorch_model.safetensors")), {})


@pytest.fixture(scope="module")
def of_rank_1(alone: Alone) -> list[str]:
    """Keys of the samples that rank 1 of 2 reads: streams 2 and 3."""
    ledger = alone.run("sgd", "eligible")[1]
    return sorted({row["key"] for row in ledger.to_pylist() if row["stream"] >= 2})


@pytest.fixture(scope="module")
def make_job(make_pass_config: MakeConfig) -> Callable[..., dict[str, Any]]:
    def job(name: str, output: str, twist: str = "", **sections: Any) -> dict[str, Any]:
        config = make_pass_config(output, **sections)
        return {"name": name, "config": config.model_dump(mode="json"), "twist": twist}

    return job


def of_case(make_job: Any, case: Case, label: str) -> Any:
    """A job of ``CASES`` on two ranks."""
    optimizer, divides_by, accumulation = case
    name = "-".join(map(str, case))
    return make_job(name, f"{label}-{name}", f"divides_by_{divides_by}", **settings(optimizer, accumulation, 2))


def short(run_ranks: Any, make_job: Any, engine: str, whole: bool, label: str) -> Any:
    """Some of the cases under ``engine``; with ``whole`` the history, robust scores and the control too."""
    jobs = [of_case(make_job, case, label) for case in SHORT[engine]]
    if whole:
        jobs.append(make_job("history", f"{label}-history", **by_history(6, 2)))
        jobs.append(make_job("robust", f"{label}-robust", **by_robust_scores(6, 2)))
        jobs.append(make_job("control", f"{label}-control", "per_rank_mean", **settings("sgd", 1, 2)))
    return run_ranks(engine, jobs)


@pytest.fixture(scope="module")
def zero2(run_ranks: Any, make_job: Any) -> Any:
    return short(run_ranks, make_job, "zero2", whole=False, label="short-zero2")


@pytest.fixture(scope="module", params=["ddp", pytest.param("zero2", marks=pytest.mark.slow)])
def few(request: pytest.FixtureRequest, run_ranks: Any, make_job: Any) -> Any:
    return short(run_ranks, make_job, request.param, whole=True, label=f"few-{request.param}")


@pytest.fixture(scope="module")
def uneven(make_shards: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("uneven"), 52)


@pytest.fixture(scope="module", params=["ddp", "zero1", "zero2", "zero3"])
def two(
    request: pytest.FixtureRequest, run_ranks: Any, make_job: Any, alone: Alone, of_rank_1: list[str], uneven: Path
) -> Any:
    engine = str(request.param)

    def job(name: str, *more: Any, **sections: Any) -> dict[str, Any]:
        made: dict[str, Any] = make_job(name, f"{engine}-{name}", *more, **sections)
        return made

    jobs = [of_case(make_job, case, engine) for case in CASES]
    jobs += [
        job("per-rank-mean", "per_rank_mean", **settings("sgd", 1, 2)),
        job("rank-1-drops-all", **settings("adamw", 1, 2, threshold=1e9, always_drop=of_rank_1)),
        job("all-drop", **settings("adamw", 3, 2, threshold=0.0, always_drop=[f"{i:05d}" for i in range(64)]
                                   + [f"copy{i:04d}" for i in range(24)])),
        job("bad-counted", "spoil_rank_1", data={"max_bad": 1}, **settings("sgd", 1, 2)),
        job("bad-refused", "spoil_rank_1", **settings("sgd", 1, 2)),
        job("uneven", **one_epoch(uneven, 4)),
        job("loss-infinite", "infinite_loss_on_rank_1", **settings("sgd", 1, 2)),
    ]  # fmt: skip
    exported = settings("adamw", 3, 2)
    exported["optimizer"] = {**OPTIMIZERS["adamw"], "schedule": "constant"}  # a linear one ends with the run
    exported["validation"] = {"prompts": ["pair 1"], "sampling_steps": 2, "every": 2, "held_out_pairs": 8}
    exported["checkpoint"] = {"every": 2, "export": True}
    if engine != "zero3":
        exported["model"] = {"ema": True, "ema_decay": 0.5}
    whole = job("whole", **exported)
    first = job("first-half", **exported)
    second = {"name": "second-half", "config": {**first["config"]}}
    first["config"] = {**first["config"], "train": {**first["config"]["train"], "steps": 2}}
    first["config"]["checkpoint"] = {**first["config"]["checkpoint"], "export": False}
    return run_ranks(engine, [*jobs, whole, first, second])


def config_of(two: Any, job: str) -> Path:
    jobs = json.loads((two.folder / "jobs.json").read_text())
    return Path(next(j["config"]["output"] for j in jobs if j["name"] == job))


@pytest.mark.trains
def test_two_ranks_are_one_process_under_zero_2_in_short(zero2: Any, alone: Alone) -> None:
    for case in SHORT["zero2"]:
        compare(zero2, alone, *case)


@pytest.mark.trains
def test_two_ranks_are_one_process_in_short(few: Any, alone: Alone) -> None:
    (engine,) = {outcome["engine"] for outcome in few.outcomes[0].values()}
    for case in SHORT[engine]:
        compare(few, alone, *case)
    one, _ = alone.run("sgd", "kept")
    assert float((few.weights("control") - one).norm() / (one - alone.start).norm()) > 100 * TOLERANCE["sgd"]


def whole_run(alone: Alone, name: str, sections: dict[str, Any]) -> RunConfig:
    config = alone.make_config(name, **sections)
    if not (config.output / "summary.json").exists():
        fit(set_up(config))
    return config


@pytest.mark.trains
def test_the_history_is_that_of_one_process(few: Any, alone: Alone) -> None:
    """Shared out over two ranks by group, looked up once a window, condemned in one order."""
    one = whole_run(alone, "one-history", by_history(24, 1)).output
    two = config_of(few, "history")
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    for name in ("read", "trained", "dropped", "remainder", "groups", "condemned_groups", "overfitting"):
        assert summaries[0][name] == summaries[1][name], name
    assert 0 < summaries[0]["condemned_groups"] < summaries[0]["groups"]
    ledgers = [read_ledger(folder / "ledger") for folder in (one, two)]
    assert ledgers[0].select(SAME).equals(ledgers[1].select(SAME))
    tables = [pq.read_table(folder / "groups.parquet") for folder in (one, two)]
    exact = ["group", "exposures", "trained", "scored", "dropped", "condemned_step", "first_step", "last_step"]
    assert tables[0].select(exact).equals(tables[1].select(exact))
    assert tables[0]["loss_level"].is_null().equals(tables[1]["loss_level"].is_null())
    for name in ("evidence", "evidence_max", "p_value", "magnitude_mean", "loss_level"):
        single, double = (table[name].to_numpy(zero_copy_only=False) for table in tables)
        assert np.allclose(single, double, rtol=1e-3, atol=1e-4, equal_nan=True), name
    assert all(tables[1]["key"].to_pylist()) and not list(two.glob("*-rank*.parquet"))


@pytest.mark.trains
def test_robust_scores_are_those_of_one_process(few: Any, alone: Alone) -> None:
    one = read_ledger(whole_run(alone, "one-robust", by_robust_scores(24, 1)).output / "ledger")
    two = read_ledger(config_of(few, "robust") / "ledger")
    assert one.select(SAME).equals(two.select(SAME)) and "drop" in set(one["action"].to_pylist())


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "divides_by", "accumulation"), CASES)
def test_two_ranks_are_one_process(
    two: Any, alone: Alone, optimizer: str, divides_by: Divisor, accumulation: int
) -> None:
    compare(two, alone, optimizer, divides_by, accumulation)


def compare(two: Any, alone: Alone, optimizer: str, divides_by: Divisor, accumulation: int) -> None:
    """The same verdicts on every sample, each read once, and the same update."""
    name = f"{optimizer}-{divides_by}-{accumulation}"
    one, ledger = alone.run(optimizer, divides_by)
    mine = read_ledger(config_of(two, name) / "ledger")
    assert mine.select(SAME).equals(ledger.select(SAME)), "verdicts differ"
    assert {"keep", "drop"} == set(mine["action"].to_pylist()), "some but not all are dropped"
    assert len({(r["stream"], r["epoch"], r["offset"]) for r in mine.to_pylist()}) == len(mine) == 3 * ROWS
    margin = min(abs(m - TAU) for m in mine["magnitude"].to_pylist() if m is not None)
    apart = float((two.weights(name) - one).norm() / (one - alone.start).norm())
    print(f"{name}: apart {apart:.1e} of the way, smallest margin to the threshold {margin:.1e}")
    assert apart <= TOLERANCE[optimizer]
    outcome = two.outcomes[1][name]
    assert outcome["schedule"] == outcome["summary"]["updates"] == 3 and outcome["lr"] == 0.0


@pytest.mark.slow
def test_per_rank_means_fail_the_same_test(two: Any, alone: Alone) -> None:
    """The control: without the common denominator the two ranks are not one process."""
    one, _ = alone.run("sgd", "kept")
    apart = float((two.weights("per-rank-mean") - one).norm() / (one - alone.start).norm())
    assert apart > 100 * TOLERANCE["sgd"]


@pytest.mark.slow
def test_a_rank_that_drops_everything(two: Any, alone: Alone, of_rank_1: list[str]) -> None:
    one, ledger = alone.run("adamw", "kept", "one-half-dropped", threshold=1e9, always_drop=of_rank_1)
    mine = read_ledger(config_of(two, "rank-1-drops-all") / "ledger")
    assert mine.select(SAME).equals(ledger.select(SAME))
    per_rank = {(r["step"], r["rank"]): set() for r in mine.to_pylist()}
    for row in mine.to_pylist():
        per_rank[row["step"], row["rank"]].add(row["action"])
    assert all(actions == ({"drop"} if rank else {"keep"}) for (_, rank), actions in per_rank.items())
    assert len(per_rank) == 6
    apart = float((two.weights("rank-1-drops-all") - one).norm() / (one - alone.start).norm())
    assert apart <= TOLERANCE["adamw"]


@pytest.mark.slow
def test_all_dropped_moves_nothing(two: Any, alone: Alone) -> None:
    assert torch.equal(two.weights("all-drop"), alone.start)
    for rank in range(2):
        outcome = two.outcomes[rank]["all-drop"]
        assert outcome["schedule"] == 0 and outcome["lr"] == OPTIMIZERS["adamw"]["lr"]
        assert outcome["summary"]["skipped_steps"] == 3 and outcome["summary"]["updates"] == 0


@pytest.mark.slow
def test_a_rank_with_fewer_samples(two: Any, alone: Alone, uneven: Path) -> None:
    one = whole_run(alone, "one-uneven", one_epoch(uneven, 8)).output
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, config_of(two, "uneven"))]
    for name in ("read", "trained", "dropped", "remainder", "steps", "updates", "skipped_steps"):
        assert summaries[0][name] == summaries[1][name], name
    assert summaries[1]["read"] == 52 and summaries[1]["remainder"] == 0 and summaries[1]["steps"] == 7
    ledger = read_ledger(config_of(two, "uneven") / "ledger")
    assert ledger.select(SAME).equals(read_ledger(one / "ledger").select(SAME))
    assert sorted(ledger["key"].to_pylist()) == [f"{i:05d}" for i in range(52)], "every sample, once"


@pytest.mark.slow
def test_a_bad_sample_of_one_rank(two: Any) -> None:
    summary = two.outcomes[0]["bad-counted"]["summary"]
    assert summary["failed"] == {"input is not finite": 1} and summary["remainder"] == 0 and summary["read"] == 3 * ROWS
    for rank in range(2):
        error = two.outcomes[rank]["bad-refused"]["error"]
        assert error.startswith("BadDataError") and ".tar:" in error and "input is not finite" in error


@pytest.mark.slow
def test_a_non_finite_loss_of_one_rank_stops_all(two: Any) -> None:
    for rank in range(2):
        error = two.outcomes[rank]["loss-infinite"]["error"]
        assert error.startswith("NonFiniteError") and ".tar:" in error, "all ranks name the sample"


@pytest.mark.slow
def test_resumed_is_uninterrupted(two: Any) -> None:
    assert two.outcomes[0]["second-half"]["started_at"] == 2
    assert torch.equal(two.weights("second-half"), two.weights("whole"))
    averages = [two.state(job)["ema"] for job in ("second-half", "whole")]
    assert all(torch.equal(a, b) for a, b in zip(*averages, strict=True))
    ledgers = [read_ledger(config_of(two, job) / "ledger") for job in ("first-half", "whole")]
    assert ledgers[0].equals(ledgers[1])


@pytest.mark.slow
def test_the_export_is_a_plain_pipeline(two: Any) -> None:
    folder = config_of(two, "whole") / "pipeline"
    unet = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True).unet
    state = two.state("whole")
    expected = state["ema"] or list(state["weights"].values())
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), expected, strict=True))
