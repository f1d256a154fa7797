"""What practitioners set: optimizers, noise, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from memsieve.filtering.settings import SettingsError
from memsieve.train.config import OptimizerConfig, RunConfig
from memsieve.train.engine import Engine
from memsieve.train.loop import fit
from memsieve.train.optimizers import make_optimizer
from memsieve.train.session import Session
from memsieve.train.set_up import set_up

MakeConfig = Callable[..., RunConfig]


def weights(session: Session) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in session.model.parameters()])


@pytest.mark.parametrize(("name", "lr"), [("adamw", 1e-3), ("prodigy", 1.0), ("sgd", 0.1)])
@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_an_optimizer_trains_and_resumes_bit_equal(
    make_config: MakeConfig, name: str, lr: float, lora: dict[str, Any] | None
) -> None:
    sections: dict[str, Any] = {
        "model": {"lora": lora},
        "optimizer": {"name": name, "lr": lr, "schedule": "cosine"},
        "checkpoint": {"every": 3, "export": False},
    }
    whole = set_up(make_config("whole", **sections))
    before = weights(whole).clone()
    fit(whole)
    assert not torch.equal(before, weights(whole)) and bool(torch.isfinite(weights(whole)).all())
    first = make_config("parts", **sections)
    first.train.steps = 6
    session = set_up(first)
    session.total_steps = 3  # stopped half-way, its schedule that of the whole
    fit(session)
    (first.output / "summary.json").unlink()
    resumed = set_up(make_config("parts", **sections))
    assert resumed.step == 3
    fit(resumed)
    assert torch.equal(weights(whole), weights(resumed))


def test_fused_adamw_is_adamw() -> None:
    """And the loss scaler's runs, where accelerate must see a skipped step, do without."""
    torch.manual_seed(0)
    start, gradients = torch.randn(40, 7), torch.randn(5, 40, 7)
    found = []
    for precision in ("no", "fp16"):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = make_optimizer(OptimizerConfig(lr=1e-2), [parameter], precision)
        assert optimizer.defaults["fused"] is (precision == "no")
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        found.append(parameter.detach())
    assert torch.allclose(found[0], found[1], atol=1e-6) and not torch.equal(found[0], start)


@pytest.mark.slow
def test_eight_bit_adamw_trains_as_adamw_and_resumes_bit_equal(make_config: MakeConfig) -> None:
    """bitsandbytes keeps the moments of tensors from 4096 numbers on in eight bits; smaller ones in float32."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    start, gradients = torch.randn(64, 128), torch.randn(5, 64, 128)
    moved = []
    for name in ("adamw", "adamw_8bit"):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = make_optimizer(OptimizerConfig.model_validate({"name": name, "lr": 1e-2}), [parameter])
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        moved.append(parameter.detach() - start)
    assert isinstance(optimizer, bitsandbytes.optim.AdamW8bit)
    assert optimizer.state[parameter]["state1"].dtype == torch.uint8
    assert float((moved[0] - moved[1]).norm() / moved[0].norm()) < 0.1
    test_an_optimizer_trains_and_resumes_bit_equal(make_config, "adamw_8bit", 1e-3, None)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    for name, package, extra in (("adamw_8bit", "bitsandbytes", "bnb"), ("prodigy", "prodigyopt", "prodigy")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(SettingsError, match=rf"{name} needs {package}, .*pip install .*\[{extra}\]'"):
            make_optimizer(OptimizerConfig(name=name, lr=1.0), parameters)  # type: ignore[arg-type]


def test_what_does_not_go_together(make_config: MakeConfig) -> None:
    prodigy = make_config(optimizer={"name": "prodigy", "lr": 1.0})
    with pytest.raises(SettingsError, match="prodigy finds one step size from all weights"):
        Engine("zero2").check(prodigy)
    Engine("ddp").check(prodigy)
    eight = make_config(optimizer={"name": "adamw_8bit"})
    with pytest.raises(SettingsError, match="adamw_8bit cannot be used with an offloaded optimizer"):
        Engine("zero2", offload=True).check(eight)
