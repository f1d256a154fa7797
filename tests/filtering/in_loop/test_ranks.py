"""Two ranks of a loop do what one process would, and the main process may save alone, as diffusers' scripts do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState

from tests.filtering.in_loop.rank_worker import SAVED_AT, STEPS, Run
from tests.train.conftest import free_port

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_two_ranks_are_one_process_and_any_number_goes_on_from_what_rank_0_saved(tmp_path: Path) -> None:
    one = Run()
    one.train(0, SAVED_AT)
    one.accelerator.save_state(str(tmp_path / "one"))
    one.train(SAVED_AT, STEPS)
    expected = one.found()
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    command = [sys.executable, *launch, str(Path(__file__).parent / "rank_worker.py"), str(tmp_path)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in range(2))
    assert first == second, "the evidence of all ranks is on each"
    for found in first.values():
        same(found, expected)
    again = Run()
    again.accelerator.load_state(str(tmp_path / "two"))
    again.train(SAVED_AT, STEPS)
    same(again.found(), expected)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["weights"] == pytest.approx(expected["weights"], rel=1e-3, abs=1e-4)
    assert found["held out"] == expected["held out"] and found["scalars"] == expected["scalars"]
    assert found["pairs"].keys() == expected["pairs"].keys() and len(found["pairs"]) == 12
    for name, numbers in expected["pairs"].items():
        assert found["pairs"][name][1:] == numbers[1:]
        assert found["pairs"][name][0] == pytest.approx(numbers[0], rel=1e-2, abs=1e-2)
    assert expected["pairs"]["pair 3"][3] > 0 == expected["pairs"]["pair 3"][2], "dropped, never trained on"
    assert expected["bar"] == pytest.approx(found["bar"], rel=1e-2) and expected["bar"] < 1e9
