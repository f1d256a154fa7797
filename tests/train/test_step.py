"""One optimizer step: its gradient, its denominator, the weights of samples, and steps that are skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer

from memsieve.filtering.types import Divisor
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit, window_batches
from memsieve.train.optimizers import make_optimizer
from memsieve.train.set_up import set_up
from tests.train.conftest import middle_magnitude, plain_batch

pytestmark = pytest.mark.trains
MakeConfig = Callable[..., RunConfig]


def test_a_gradient_of_the_unfiltered_step_is_the_plain_one(make_config: MakeConfig) -> None:
    """Against a straightforward computation as in the diffusers example."""
    config = make_config(filter={"enabled": False}, train={"steps": 1}, optimizer={"name": "sgd", "lr": 1.0,
                         "weight_decay": 0.0, "max_grad_norm": 1e9})  # fmt: skip
    session = set_up(config)
    window = next(iter(session.loader))
    batch = plain_batch(session, window.rows, caption_dropout=0.1)
    model = session.model
    start = [p.detach().clone() for p in model.parameters()]
    prediction = model(batch.noisy, batch.timesteps, batch.conditioning.encoder_hidden_states).sample
    torch.nn.functional.mse_loss(prediction, batch.noise).backward()
    expected = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    session.trainer.train([batch])
    for parameter, before, grad in zip(model.parameters(), start, expected, strict=True):
        assert torch.allclose(before - parameter, grad, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_goes_with_drops(
    make_config: MakeConfig, tiny_model: Path, tiny_v_model: Path, prediction_type: str
) -> None:
    """The weight of each kept sample is its own, whatever was dropped beside it."""
    from diffusers.training_utils import compute_snr

    model_path = tiny_model if prediction_type == "epsilon" else tiny_v_model
    config = make_config(
        model={"path": str(model_path)},
        filter={"signals": ["magnitude"], "rule": "threshold", "threshold": 1.0},
        train={"steps": 1, "snr_gamma": 5.0, "caption_dropout": 0.0},
    )  # fmt: skip
    config.filter.threshold = middle_magnitude(config)
    session = set_up(config)
    batch = plain_batch(session, next(iter(session.loader)).rows)
    snr = compute_snr(session.denoiser.noise_scheduler, batch.timesteps)
    weight = snr.clamp(max=5.0) / (snr if prediction_type == "epsilon" else snr + 1)
    with torch.no_grad():
        prediction = session.model(batch.noisy, batch.timesteps, batch.conditioning.encoder_hidden_states).sample
    if prediction_type == "epsilon":
        target = batch.noise
    else:
        target = session.denoiser.noise_scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps)
    losses = (prediction - target).square().flatten(1).mean(1) * weight
    result = session.trainer.train([batch])
    kept = torch.tensor([verdict.weight for verdict in result.verdicts])
    assert 0 < kept.sum() < len(kept), "some but not all are dropped"
    assert result.loss == pytest.approx(float((losses * kept).sum() / kept.sum()), rel=1e-5)


@pytest.mark.parametrize("divides_by", ["eligible", "kept"])
def test_accumulation_does_not_change_the_update(make_config: MakeConfig, divides_by: Divisor) -> None:
    def weights(name: str, batch: int, accumulation: int) -> tuple[torch.Tensor, torch.Tensor, Any]:
        config = make_config(
            name,
            filter={"signals": ["magnitude"], "rule": "threshold", "threshold": 0.5},
            train={"steps": 2, "batch_size": batch, "accumulation": accumulation},
            optimizer={"name": "sgd", "lr": 0.1, "weight_decay": 0.0},
        )  # fmt: skip
        session = set_up(config)
        assert session.filter is not None
        session.filter.rule.divides_by = divides_by
        start = torch.cat([p.detach().flatten().clone() for p in session.model.parameters()])
        summary = fit(session)
        return start, torch.cat([p.detach().flatten() for p in session.model.parameters()]), summary

    start, one, summary = weights("one", 8, 1)
    _, two, _ = weights("two", 4, 2)
    assert 0 < sum(summary["dropped"].values()) < 16, "some but not all are dropped"
    assert float((one - two).norm() / (one - start).norm()) < 1e-5


def test_an_overflow_is_a_skipped_step(make_config: MakeConfig) -> None:
    """The loss scaler finds a gradient that has overflowed, lowers its scale, and the run goes on."""
    config = make_config(filter={"enabled": False}, train={"steps": 4}, optimizer={"schedule": "linear"})
    session = set_up(config)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    session.accelerator.state._mixed_precision = "fp16"  # what fp16 sets; the CPU itself has no such mode
    session.accelerator.scaler = scaler
    optimizer = make_optimizer(config.optimizer, list(session.model.parameters()), "fp16")
    scaled = AcceleratedOptimizer(optimizer, device_placement=False, scaler=scaler)
    session.optimizer = session.trainer.optimizer = session.accelerator._optimizers[0] = scaled
    before = torch.cat([p.detach().flatten().clone() for p in session.model.parameters()])
    overflowing = next(session.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    first = session.trainer.train(window_batches(session, next(iter(session.loader))))
    overflowing.remove()
    assert first.skipped and scaler.get_scale() == 512.0
    assert torch.equal(before, torch.cat([p.detach().flatten() for p in session.model.parameters()]))
    assert all(p.grad is None or not p.grad.any() for p in session.model.parameters())
    summary = fit(session)
    assert summary["steps"] == 4 and summary["updates"] == session.schedule.last_epoch
    assert not torch.equal(before, torch.cat([p.detach().flatten() for p in session.model.parameters()]))
