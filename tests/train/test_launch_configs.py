"""Every shipped launch config takes two real steps on two gloo ranks; only world size, device and precision differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from memsieve.train.config import RunConfig

pytestmark = pytest.mark.timeout(600)
MakeConfig = Callable[..., RunConfig]
ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
ENGINES = {
    "one_gpu": "single",
    "cpu_2ranks": "ddp",
    "ddp_8gpu": "ddp",
    "zero2_8gpu": "zero2",
    "zero2_2x8gpu": "zero2",
    "zero3_offload_8gpu": "zero3 with offload",
}


def test_all_are_known() -> None:
    assert {path.stem for path in CONFIGS} == set(ENGINES)


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps(path: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        train={"steps": 2, "batch_size": 4, "accumulation": 2, "timeout": 280},
        checkpoint={"export": True},
        optimizer={"name": "adamw"},
    )
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    ranks = 1 if path.stem == "one_gpu" else 2  # a config for one process stays one
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path),
               "--num_processes", str(ranks), "--num_machines", "1", "--mixed_precision", "no",
               "--main_process_port", "0", "-m", "memsieve.train", str(tmp_path / "c.yaml")]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    summary = json.loads((config.output / "summary.json").read_text())
    assert (summary["ranks"], summary["steps"], summary["updates"]) == (ranks, 2, 2)
    assert summary["engine"] == f"{ENGINES[path.stem]}, mixed precision no"
    assert (config.output / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
