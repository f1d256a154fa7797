"""Training a LoRA on a base in fewer bits: filter, resume, ranks, cache and export, and what it weighs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from memsieve.filtering.denoisers.lora import AdapterOff, trained_parameters
from memsieve.filtering.denoisers.lora_files import base_of
from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.dry_run import dry_run
from memsieve.train.engine import Engine
from memsieve.train.loop import fit
from memsieve.train.memory import memory_of
from memsieve.train.set_up import set_up
from tests.train.conftest import plain_batch

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.trains
MakeConfig = Callable[..., RunConfig]
NF4: dict[str, Any] = {"lora": {"rank": 4}, "quantize": "nf4", "text_encoder_quantize": "int8"}


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_a_base_in_fewer_bits_is_trained_on(make_config: MakeConfig, tiny_model: Path, dtype: str) -> None:
    """The filter measures against the same base with the adapter off; the LoRA is for the plain one."""
    config = make_config(
        model={**NF4, "dtype": dtype, "gradient_checkpointing": True, "ema": True},
        filter={"signals": ["reference_residual"]},
        validation={"prompts": ["a"], "sampling_steps": 1},
        optimizer={"lr": 1e-2},
        checkpoint={"export": True},
    )
    session = set_up(config)
    assert session.scorer is not None and isinstance(session.scorer.reference, AdapterOff)
    frozen = {
        name: value.detach().clone() for name, value in session.model.named_parameters() if not value.requires_grad
    }
    assert any(value.dtype == torch.uint8 for value in frozen.values())
    batch = plain_batch(session, next(iter(session.loader)).rows)
    off = session.denoiser.predict(session.scorer.reference, batch.noisy, batch.timesteps, batch.conditioning).detach()
    summary = fit(session)
    assert summary["updates"] == 6
    after = dict(session.model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in frozen.items())
    again = session.denoiser.predict(session.scorer.reference, batch.noisy, batch.timesteps, batch.conditioning)
    assert torch.equal(off, again)
    assert all(value.dtype == torch.float32 and bool(value.any()) for value in trained_parameters(session.model))
    assert base_of(str(config.output / "lora")) == str(tiny_model.resolve())
    assert not torch.equal(next(open_denoiser(str(config.output / "lora")).model.parameters()), torch.zeros(1))


@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_a_step_is_that_of_a_base_with_the_rounded_weights(make_config: MakeConfig, bits: str) -> None:
    """Loss and gradient, against the plain network with the weights that the quantised ones stand for."""
    import bitsandbytes as bnb

    sgd = {"name": "sgd", "lr": 1.0, "weight_decay": 0.0, "max_grad_norm": 1e9}
    options: dict[str, Any] = {"filter": {"enabled": False}, "optimizer": sgd, "train": {"steps": 1}}
    session = set_up(make_config("a", model={"lora": {"rank": 4}, "quantize": bits}, **options))
    plain = set_up(make_config("b", model={"lora": {"rank": 4}}, **options))
    layers = dict(session.model.named_modules())
    with torch.no_grad():
        for name, layer in plain.model.named_modules():
            other = layers[name]
            if isinstance(other, bnb.nn.Linear4bit):
                layer.weight.copy_(bnb.functional.dequantize_4bit(other.weight.data, other.weight.quant_state))
            elif isinstance(other, bnb.nn.Linear8bitLt):
                layer.weight.copy_(other.weight.data.float() * other.weight.SCB[:, None] / 127.0)
        for model in (session.model, plain.model):
            torch.manual_seed(0)
            for parameter in trained_parameters(model):
                parameter.add_(0.1 * torch.randn_like(parameter))
    found = []
    for run in (session, plain):
        start = [p.detach().clone() for p in trained_parameters(run.model)]
        result = run.trainer.train([plain_batch(run, next(iter(run.loader)).rows)])
        gradients = [a - b.detach() for a, b in zip(start, trained_parameters(run.model), strict=True)]
        found.append((result.loss, torch.cat([g.flatten() for g in gradients])))
    # int8 rounds what comes into a layer too.
    near = 1e-4 if bits == "nf4" else 0.05
    assert found[0][0] == pytest.approx(found[1][0], rel=near)
    assert float((found[0][1] - found[1][1]).norm() / found[1][1].norm()) < near


@pytest.mark.slow
def test_resume_is_bit_equal(make_config: MakeConfig, tmp_path: Path) -> None:
    """With encoded captions from a cache; a checkpoint holds the adapter alone."""
    options: dict[str, Any] = {"model": NF4, "checkpoint": {"every": 3, "final": True}}
    cache = {"cache": str(tmp_path / "cache")}
    whole = set_up(make_config("whole", **options, train={"steps": 6, **cache}))
    fit(whole)
    fit(set_up(make_config("parts", **options, train={"steps": 3, **cache})))
    parts = set_up(make_config("parts", **options, train={"steps": 6, **cache}))
    assert parts.step == 3
    fit(parts)
    ours, theirs = (trained_parameters(session.model) for session in (parts, whole))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_a_run_takes_in_memory(make_config: MakeConfig) -> None:
    plain = memory_of(set_up(make_config("full")))
    assert plain["gradients"] == plain["network"] == plain["reference"] and plain["optimizer"] == 2 * plain["network"]
    lora = memory_of(set_up(make_config("lora", model={"lora": {"rank": 4}})))
    small = memory_of(set_up(make_config("nf4", model=NF4, optimizer={"name": "sgd"})))
    assert "reference" not in lora and lora["vae"] == small["vae"] == plain["vae"]
    assert small["network"] < lora["network"] and small["text encoders"] < lora["text encoders"]
    assert small["gradients"] == lora["gradients"] < plain["gradients"] and small["optimizer"] == 0
    said = dry_run(make_config("dry", model=NF4))
    assert any(
        line.startswith("memory a rank, without activations: ") and "network" in line for line in said.splitlines()
    )


def test_what_cannot_be_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ValidationError, match=r"model\.quantize: nf4 is for the frozen network under model\.lora"):
        make_config(model={"quantize": "nf4"})
    config = make_config(model=NF4)
    Engine("ddp").check(config)
    with pytest.raises(SettingsError, match=r"model\.quantize: nf4 was not tried under ZeRO.*launch with DDP"):
        Engine("zero2").check(config)


@pytest.mark.slow
def test_two_ranks_are_one_process(make_shared_config: MakeConfig, run_ranks: Any) -> None:
    """Under DDP, with drops on: the same verdicts, and the same adapter."""
    sections: dict[str, Any] = {"model": {**NF4, "ema": False}, "optimizer": {"name": "sgd", "lr": 1e-2}}
    one = set_up(make_shared_config("one", **sections, train={"steps": 3, "batch_size": 8}))
    start = torch.cat([value.detach().flatten().clone() for value in trained_parameters(one.model)])
    fit(one)
    config = make_shared_config("two", **sections, train={"steps": 3, "batch_size": 4})
    runs = run_ranks("ddp", [{"name": "two", "config": config.model_dump(mode="json")}])
    weights = runs.state("two")["weights"]
    ours = torch.cat([value.detach().flatten() for value in trained_parameters(one.model)])
    named = [name for name, value in one.model.named_parameters() if value.requires_grad]
    apart = (torch.cat([weights[name].flatten() for name in named]) - ours).norm() / (ours - start).norm()
    assert float(apart) < 1e-4 and float((ours - start).norm()) > 0
