"""What an engine cannot do, and what contradicts the run's config, is refused with a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.engine import Engine, _plugin, cast_inputs, make_accelerator

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def deepspeed_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes a DeepSpeed config and names it as ``accelerate launch`` would."""

    def write(**settings: Any) -> None:
        path = tmp_path / "ds.json"
        path.write_text(json.dumps({"zero_optimization": {"stage": 2}, **settings}))
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")

    return write


def test_cudnns_attention_is_left_out(make_config: MakeConfig) -> None:
    """Its gradients are NaN for some shapes, on a GPU alone."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    make_accelerator(make_config())
    left_out = not torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(before)
    assert left_out


@pytest.mark.parametrize(
    ("engine", "sections", "sentence"),
    [
        (Engine("zero3"), {"model": {"ema": True}}, "model.ema: true cannot be used with ZeRO-3"),
        (
            Engine("zero2", offload=True),
            {"optimizer": {"name": "sgd"}},
            "optimizer.name: sgd cannot be used",
        ),
    ],
)
def test_what_an_engine_cannot_do(make_config: MakeConfig, engine: Engine, sections: Any, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        engine.check(make_config(**sections))
    for allowed in ("single", "ddp", "zero1", "zero2"):
        Engine(allowed).check(make_config(**sections))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"zero_optimization": {"stage": 0}}, "stage is 0; use 1, 2 or 3, or DDP"),
        ({"optimizer": {"type": "Adam"}}, "has 'optimizer', which is the run's to say"),
        ({"scheduler": {"type": "WarmupLR"}}, r"has 'scheduler', .*optimizer\.schedule"),
        ({"gradient_accumulation_steps": 4}, r"gradient_accumulation_steps: 4 but train\.accumulation is 1"),
        ({"train_micro_batch_size_per_gpu": 2}, r"train_micro_batch_size_per_gpu: 2 but train\.batch_size is 8"),
        ({"gradient_clipping": 0.5}, r"gradient_clipping: 0\.5 but optimizer\.max_grad_norm is 1\.0"),
    ],
)
def test_a_deepspeed_config_that_contradicts(
    make_config: MakeConfig, deepspeed_config: Callable[..., None], settings: Any, sentence: str
) -> None:
    deepspeed_config(**settings)
    with pytest.raises(SettingsError, match=sentence):
        _plugin(make_config(), 2)


def test_deepspeed_is_told_what_the_run_says(make_config: MakeConfig, deepspeed_config: Callable[..., None]) -> None:
    deepspeed_config(gradient_clipping="auto")
    plugin = _plugin(make_config(train={"batch_size": 3, "accumulation": 5}, optimizer={"max_grad_norm": 0.25}), 2)
    told = plugin.deepspeed_config
    assert (told["train_micro_batch_size_per_gpu"], told["gradient_accumulation_steps"]) == (3, 5)
    assert (told["train_batch_size"], told["gradient_clipping"]) == (30, 0.25)


def test_a_half_precision_model_takes_and_gives_float32(tiny_model: Path) -> None:
    from memsieve.filtering.denoisers.registry import open_denoiser

    denoiser = open_denoiser(str(tiny_model))
    model = denoiser.model.to(torch.bfloat16)
    cast_inputs(model)
    states = denoiser.conditioning(["a", "b"])
    output = denoiser.predict(model, torch.randn(2, 4, 8, 8), torch.tensor([3, 500]), states)
    assert output.dtype == torch.float32 and bool(torch.isfinite(output).all())
    assert "RANK" not in os.environ


def test_fsdp_is_refused(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SettingsError, match=r"asks for FSDP.*on GPUs alone.*launch with DDP, or DeepSpeed ZeRO"):
        make_accelerator(make_config())


FSDP_RANK = """
import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
accelerator = Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2))
torch.manual_seed(0)
whole, shared = torch.nn.Linear(8, 3), torch.nn.Linear(8, 3)
shared.load_state_dict(whole.state_dict())
fully_shard(shared, mesh=init_device_mesh("cpu", (2,)))
rows = torch.randn(4, 8)
for model, seen in ((whole, rows), (shared, rows[2 * accelerator.process_index :][:2])):
    model(seen).square().mean().backward()
apart = float((shared.weight.grad.full_tensor() - whole.weight.grad).abs().max())
accelerator.print(f"SAID {accelerator.distributed_type.name} {apart < 1e-6}")
"""


@pytest.mark.slow
def test_why_fsdp_is_refused(tmp_path: Path, a_port: int) -> None:
    """On two gloo ranks accelerate takes the plugin and trains by DDP; torch's own sharding would be exact there."""
    (tmp_path / "rank.py").write_text(FSDP_RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={a_port}"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "rank.py")], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "SAID MULTI_CPU True" in done.stdout
