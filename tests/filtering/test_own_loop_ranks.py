"""The filter in one's own loop on two ranks, real processes over gloo: checkpoints, devices, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from memsieve import MemorizationFilter
from tests.filtering.own_loop_worker import OPTIONS, Loop, checkpointed, later, standing
from tests.train.conftest import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own-loop")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What both ranks found; beside it FOLDER/one, saved by one process, and FOLDER/two, by both."""
    sieve = MemorizationFilter(**OPTIONS)
    accelerator = checkpointed(sieve)
    Loop(sieve).run(20)
    accelerator.save_state(str(folder / "one"))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return launch(folder, "fast")


def launch(folder: Path, tier: str) -> list[dict[str, Any]]:
    """What two ranks found in the jobs of a tier."""
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *torchrun, str(Path(__file__).parent / "own_loop_worker.py"), str(folder), tier]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


def test_accelerates_checkpoint_holds_the_evidence_of_all_ranks(ranks: list[dict[str, Any]], folder: Path) -> None:
    state = torch.load(folder / "two" / "custom_checkpoint_0.pkl", weights_only=True)
    assert len(state["groups"]["names"]["keys"]) == 24
    for found in (rank["save_and_load"] for rank in ranks):
        saved = found["saved"]
        assert len(saved["groups"]) == saved["seen"] == 24 and {"c0", "c1"} <= set(saved["condemned"])
        assert {name for name, *_ in saved["groups"]} == {f"c{i}" for i in range(24)}
        assert all(0 < p_value <= 1 for _, _, _, p_value, *_ in saved["groups"])
        assert found["two"]["loaded"] == saved, "evidence, p-values, exposures, and whose share they are"
        assert found["two"]["went on"] == found["went on"] != saved
    shares = [set(rank["save_and_load"]["two"]["loaded"]["here"]) for rank in ranks]
    assert all(shares) and not shares[0] & shares[1]


def test_accelerates_checkpoint_loads_on_another_number_of_ranks(ranks: list[dict[str, Any]], folder: Path) -> None:
    """Saved by one, loaded by two; saved by two, loaded by one."""
    first = ranks[0]["save_and_load"]
    share = {"here": None}
    for rank in ranks:
        one = rank["save_and_load"]["one"]
        assert {**one["loaded"], **share} == {**first["saved"], **share}
        assert one["loaded"]["here"] == rank["save_and_load"]["saved"]["here"]
        assert one["went on"] == rank["save_and_load"]["went on"]
    sieve = MemorizationFilter(**OPTIONS)
    checkpointed(sieve).load_state(str(folder / "two"))
    assert len(standing(sieve)["here"]) == 24
    assert {**as_told(standing(sieve)), **share} == {**first["saved"], **share}
    assert {**as_told(later(sieve)), **share} == {**first["went on"], **share}


def as_told(found: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(json.dumps(found))
    return told


def test_the_share_of_another_rank_is_refused(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["share_of_another_rank"] == "loaded"
    refused = ranks[1]["share_of_another_rank"]
    assert refused.startswith("the history is that of rank 0 of 2, and this is rank 1 of 2") and "state_dict" in refused


def test_saving_on_the_main_process_alone_ends_with_the_reason(ranks: list[dict[str, Any]]) -> None:
    told = ranks[0]["only_the_main_process_saves"]
    assert "not all of the other 1 ranks did" in told and "not under `if accelerator.is_main_process`" in told


def test_too_few_held_out_pairs_are_refused_on_all_ranks_in_the_same_window(ranks: list[dict[str, Any]]) -> None:
    told = {rank["too_few_held_out"] for rank in ranks}
    assert len(told) == 1 and "needs at least 19 held-out groups" in told.pop()


def test_a_group_without_a_cpu_backend_is_spoken_to_on_its_own_device(ranks: list[dict[str, Any]]) -> None:
    for found in (rank["one_device_type"] for rank in ranks):
        assert found["refused"] == "No backend type associated with device type cpu"
        assert found["device"] == "lazy"
        assert found["all"] == found["again"] and len(found["all"]["groups"]) == 24
    assert ranks[0]["one_device_type"]["all"] == ranks[0]["save_and_load"]["saved"], "as over a CPU backend"


@pytest.mark.slow
def test_the_readmes_lines_run_on_two_ranks(tmp_path: Path) -> None:
    """With the model on the one device type that the group serves, which is not the CPU; and under DDP, bare and
    prepared by accelerate."""
    first, second = launch(tmp_path, "slow")
    assert first == second
    for found in (first["readme_lines_on_one_device_type"], *first["readme_lines"].values()):
        assert found["images"] == 8 and found["moved"]
