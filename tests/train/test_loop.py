"""Whole runs in one process: accounting, resume, skipped steps, damaged samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer

from memsieve.filtering.data.rows import content_id
from memsieve.filtering.ledger import read_ledger
from memsieve.train.config import RunConfig
from memsieve.train.loop import BadDataError, fit, window_batches
from memsieve.train.optimizers import make_optimizer
from memsieve.train.session import set_up
from memsieve.train.step import NonFiniteError
from tests.train.conftest import middle_magnitude, plain_batch

pytestmark = pytest.mark.trains
MakeConfig = Callable[..., RunConfig]


def run(config: RunConfig) -> dict[str, Any]:
    return fit(set_up(config))


def metrics(config: RunConfig) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "time" and "seconds" not in k} for row in rows]


def test_every_sample_read_is_accounted_for(make_config: MakeConfig) -> None:
    config = make_config(filter={"ledger_kept": True}, tracking={"log_every": 1})
    summary = run(config)
    assert summary["read"] == 48 and summary["remainder"] == 0
    assert summary["trained"] + sum(summary["dropped"].values()) == 48
    ledger = read_ledger(config.output / "ledger")
    assert len(ledger) == 48
    assert min(m for m in ledger["magnitude"].to_pylist() if m is not None) > 0
    assert {"train/loss", "mem/magnitude_mean", "mem/dropped_frac"} <= set(metrics(config)[0])
    groups = pq.read_table(config.output / "groups.parquet")
    assert sum(groups["exposures"].to_pylist()) == 48


def test_same_seed_same_run_and_resumed_equals_uninterrupted(make_config: MakeConfig) -> None:
    fixed: dict[str, Any] = {
        "filter": {"ledger_kept": True},
        "tracking": {"log_every": 1},
        "train": {"steps": 6},
        "model": {"ema": True},
    }
    whole, again, half = (make_config(name, **fixed) for name in ("whole", "again", "half"))
    run(whole)
    run(again)
    assert metrics(whole) == metrics(again)
    half.train.steps = 3
    half.checkpoint.every = 2
    session = set_up(half)
    fit(session)
    half.train.steps = 6
    resumed = set_up(half)
    assert resumed.step == 2, "the last checkpoint before the end of the first half"
    fit(resumed)
    mine = [row for row in metrics(half) if row["step"] > 2]
    assert [{k: v for k, v in r.items() if not k.startswith("val/")} for r in mine] == [
        {k: v for k, v in r.items() if not k.startswith("val/")} for r in metrics(whole) if r["step"] > 2
    ]
    assert read_ledger(half.output / "ledger").equals(read_ledger(whole.output / "ledger"))


def test_all_dropped_moves_nothing(make_config: MakeConfig) -> None:
    config = make_config(
        filter={"signals": ["magnitude"], "calibrator": "fixed", "threshold": 0.0, "decide": "visit",
                "normalize": "kept"},
        train={"steps": 3, "caption_dropout": 0.0},
        optimizer={"schedule": "linear"},
    )  # fmt: skip
    session = set_up(config)
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    summary = fit(session)
    assert summary["skipped_steps"] == 3 and summary["updates"] == 0 and summary["trained"] == 0
    assert session.schedule.last_epoch == 0
    assert all(torch.equal(value, before[name]) for name, value in session.model.state_dict().items())


@pytest.mark.parametrize("normalize", ["eligible", "kept"])
def test_accumulation_does_not_change_the_update(make_config: MakeConfig, normalize: str) -> None:
    def weights(name: str, batch: int, accumulation: int) -> tuple[torch.Tensor, torch.Tensor, Any]:
        config = make_config(
            name,
            filter={"signals": ["magnitude"], "calibrator": "fixed", "threshold": 0.5, "decide": "visit",
                    "normalize": normalize},
            train={"steps": 2, "batch_size": batch, "accumulation": accumulation},
            optimizer={"name": "sgd", "lr": 0.1, "weight_decay": 0.0},
        )  # fmt: skip
        session = set_up(config)
        start = torch.cat([p.detach().flatten().clone() for p in session.model.parameters()])
        summary = fit(session)
        return start, torch.cat([p.detach().flatten() for p in session.model.parameters()]), summary

    start, one, summary = weights("one", 8, 1)
    _, two, _ = weights("two", 4, 2)
    assert 0 < sum(summary["dropped"].values()) < 16, "some but not all are dropped"
    assert float((one - two).norm() / (one - start).norm()) < 1e-5


def test_a_planted_copy_is_one_group(make_config: MakeConfig) -> None:
    config = make_config(train={"epochs": 1, "steps": None})
    session = set_up(config)
    summary = fit(session)
    assert summary["read"] == 64 and summary["groups"] == 48
    assert max(session.filter.groups["exposures"]) == 17  # type: ignore[union-attr]


def test_non_finite_loss_stops_before_the_update(make_config: MakeConfig) -> None:
    session = set_up(make_config())
    with torch.no_grad():
        next(session.model.parameters()).fill_(float("inf"))
    before = [p.detach().clone() for p in session.model.parameters()]
    with pytest.raises(NonFiniteError, match=r"not finite although the input is: .*\.tar:.*the model's own"):
        fit(session)
    assert all(torch.equal(a, b) for a, b in zip(before, session.model.parameters(), strict=True))


def test_non_finite_input_is_counted_or_refused(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(session: Any) -> Any:
        original = session.loader.__class__.__iter__

        def windows(loader: Any) -> Any:
            for n, window in enumerate(original(loader)):
                if n == 1:
                    window.rows[0].pixels[0, 0, 0] = float("nan")
                yield window

        monkeypatch.setattr(session.loader.__class__, "__iter__", windows)
        summary = fit(session)
        monkeypatch.setattr(session.loader.__class__, "__iter__", original)
        return summary

    summary = spoil(set_up(make_config("tolerant", data={"max_bad": 1})))
    assert summary["failed"] == {"input is not finite": 1} and summary["remainder"] == 0
    with pytest.raises(BadDataError, match=r"data\.max_bad is 0: .*input is not finite"):
        spoil(set_up(make_config("strict")))


def test_bad_config_of_a_resume_is_refused(make_config: MakeConfig) -> None:
    config = make_config(checkpoint={"every": 2})
    run(config)
    config.optimizer.weight_decay = 2e-3
    with pytest.raises(ValueError, match=r"'optimizer\.weight_decay' is 0\.002 but the run .* was started with 0\.01"):
        set_up(config)


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


def test_content_names_the_group(shards: Path) -> None:
    assert content_id(b"a") != content_id(b"b") and len(content_id(b"a")) == 32


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_goes_with_drops(
    make_config: MakeConfig, tiny_model: Path, tiny_v_model: Path, prediction_type: str
) -> None:
    """The weight of each kept sample is its own, whatever was dropped beside it."""
    from diffusers.training_utils import compute_snr

    model_path = tiny_model if prediction_type == "epsilon" else tiny_v_model
    config = make_config(
        model={"path": str(model_path)},
        filter={"signals": ["magnitude"], "calibrator": "fixed", "threshold": 1.0, "decide": "visit",
                "normalize": "kept"},
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
    first = session.trainer.train(_first_batches(session))
    overflowing.remove()
    assert first.skipped and scaler.get_scale() == 512.0
    assert torch.equal(before, torch.cat([p.detach().flatten() for p in session.model.parameters()]))
    assert all(p.grad is None or not p.grad.any() for p in session.model.parameters())
    summary = fit(session)
    assert summary["steps"] == 4 and summary["updates"] == session.schedule.last_epoch
    assert not torch.equal(before, torch.cat([p.detach().flatten() for p in session.model.parameters()]))


def _first_batches(session: Any) -> Any:
    return window_batches(session, next(iter(session.loader)))
