"""Two real gloo processes against one, with drops on: the same verdicts, the same update."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from filtering.ledger import read_ledger
from train.config import RunConfig

MakeConfig = Callable[..., RunConfig]
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def launch(config: RunConfig, path: Path, ranks: int) -> torch.Tensor:
    """Train in ``ranks`` processes; the exported UNet's weights as one vector."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}",
               f"--master_port={free_port()}", "-m", "train", str(path)]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads((config.output / "summary.json").read_text())["ranks"] == ranks
    weights = load_file(config.output / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("normalize", ["eligible", "kept"])
def test_two_ranks_are_one_process(
    make_config: MakeConfig, tmp_path: Path, tiny_model: Path, accumulation: int, normalize: str
) -> None:
    def config(name: str, batch: int) -> RunConfig:
        return make_config(
            name,
            filter={"signals": ["magnitude"], "calibrator": "fixed", "threshold": 0.5, "decide": "visit",
                    "normalize": normalize, "ledger_kept": True},
            train={"steps": 3, "batch_size": batch, "accumulation": accumulation},
            optimizer={"name": "sgd", "lr": 0.1, "weight_decay": 0.0},
            checkpoint={"every": 2, "export": True},
        )  # fmt: skip

    start = load_file(tiny_model / "unet" / "diffusion_pytorch_model.safetensors")
    before = torch.cat([start[name].flatten() for name in sorted(start)])
    one_config, two_config = config("one", 16 // accumulation), config("two", 8 // accumulation)
    one = launch(one_config, tmp_path / "one.yaml", 1)
    two = launch(two_config, tmp_path / "two.yaml", 2)
    ledgers = [read_ledger(c.output / "ledger") for c in (one_config, two_config)]
    same = ["step", "key", "stream", "offset", "action", "reason", "timestep", "weight"]
    assert ledgers[0].select(same).equals(ledgers[1].select(same)), "verdicts differ"
    actions = set(ledgers[0]["action"].to_pylist())
    assert actions == {"keep", "drop"}, "some but not all are dropped"
    assert float((one - two).norm() / (one - before).norm()) < 1e-5
