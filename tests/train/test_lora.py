"""Fine-tuning an adapter: the step, the reference, checkpoints, what is exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import load_file

from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji
from memsieve.filtering.denoisers.lora import AdapterOff, trained_parameters
from memsieve.filtering.denoisers.lora_files import KOHYA_FILE, LORA_FILE
from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.filtering.evidence.table import MIN_SWEEPS
from memsieve.filtering.ledger import read_ledger
from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from tests.train.conftest import plain_batch

pytestmark = pytest.mark.trains
ROOT = Path(__file__).parents[2]
MakeConfig = Callable[..., RunConfig]
LORA: dict[str, Any] = {"rank": 4, "alpha": 2}


def adapter(session: Session) -> torch.Tensor:
    model = session.accelerator.unwrap_model(session.model)
    return torch.cat([p.detach().flatten() for p in trained_parameters(model)])


def base_weights(session: Session) -> dict[str, torch.Tensor]:
    model = session.accelerator.unwrap_model(session.model)
    frozen = {name: value for name, value in model.named_parameters() if not value.requires_grad}
    return {name.replace(".base_layer", ""): value.detach().clone() for name, value in frozen.items()}


def first_batch(session: Session) -> Any:
    window = next(iter(session.loader))
    return plain_batch(session, window.rows, caption_dropout=0.1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_is_that_of_plain_peft(make_config: MakeConfig, tiny_model: Path, checkpointing: bool) -> None:
    """Loss and update against an unfiltered step as diffusers' LoRA example computes it."""
    config = make_config(
        model={"lora": LORA, "gradient_checkpointing": checkpointing},
        filter={"enabled": False},
        train={"steps": 1},
        optimizer={"name": "sgd", "lr": 1.0, "weight_decay": 0.0, "max_grad_norm": 1e9},
    )
    session = set_up(config)
    batch = first_batch(session)
    plain = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet").requires_grad_(False)
    names = ["to_k", "to_q", "to_v", "to_out.0"]
    plain.add_adapter(LoraConfig(r=4, lora_alpha=2, init_lora_weights="gaussian", target_modules=names))
    shaken(session.model)
    plain.load_state_dict(session.model.state_dict())
    states = batch.conditioning.encoder_hidden_states
    loss = torch.nn.functional.mse_loss(plain(batch.noisy, batch.timesteps, states).sample, batch.noise)
    loss.backward()
    start = [p.detach().clone() for p in trained_parameters(session.model)]
    result = session.trainer.train([batch])
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    expected = trained_parameters(plain)
    assert len(expected) == len(start) > 0 and all(p.dtype == torch.float32 for p in start)
    for before, after, other in zip(start, trained_parameters(session.model), expected, strict=True):
        assert other.grad is not None and bool(other.grad.any())
        assert torch.allclose(before - after, other.grad, atol=1e-6)


def shaken(model: torch.nn.Module) -> None:
    """B starts at zero, and with it the gradient of A."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trained_parameters(model):
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_adapter_off_is_a_frozen_copy(make_config: MakeConfig, tiny_model: Path, dropout: float) -> None:
    """In train mode, with dropout and gradient checkpointing, before and after training."""
    config = make_config(
        model={"lora": {**LORA, "dropout": dropout}, "gradient_checkpointing": True},
        filter={"signals": ["loss", "reference_ratio", "magnitude_ratio"]},
        train={"steps": 4},
        optimizer={"lr": 1e-2},
    )
    session = set_up(config)
    frozen = UNet2DConditionModel.from_pretrained(tiny_model, subfolder="unet").eval()
    assert session.scorer is not None and isinstance(session.scorer.reference, AdapterOff)
    batch = first_batch(session)
    fit(session)
    session.model.train()
    with torch.no_grad():
        inputs = batch.noisy, batch.timesteps, batch.conditioning.encoder_hidden_states
        expected = frozen(*inputs).sample
        off = session.scorer.reference(*inputs).sample
        on = session.model.eval()(*inputs).sample
    # The same operations in other kernels: some last bits of values around 1.
    assert float((off - expected).abs().max()) < 1e-5 < 1e-3 < float((on - expected).abs().max())
    measured = session.scorer.measure(batch).signals
    session.scorer.reference = frozen
    for name, value in session.scorer.measure(batch).signals.items():
        assert torch.allclose(measured[name], value, atol=1e-6, equal_nan=True), name
        assert torch.isfinite(value).sum() > 3


def test_dropout_is_off_where_a_batch_is_measured(make_config: MakeConfig) -> None:
    """In the training step too, whose own forward drops out: its verdicts are those of a quiet forward."""
    tau = 0.5
    rule = {"signals": ["magnitude"], "rule": "threshold", "threshold": tau}
    session = set_up(make_config(model={"lora": {**LORA, "dropout": 0.9}}, filter=rule))
    shaken(session.model)
    batch = first_batch(session)
    assert session.scorer is not None
    expected = session.scorer.measure(batch).signals["magnitude"].tolist()
    verdicts = session.trainer.train([batch]).verdicts
    found = [v.signals.get("magnitude") for v in verdicts]
    assert [value for value in found if value is not None] == [
        pytest.approx(value, rel=1e-6) for value, ok in zip(expected, batch.usable, strict=True) if ok
    ]
    sieved = {"apply": "sieve", "signals": ["loss"]}
    with pytest.raises(SettingsError, match=r"model\.lora\.dropout: 0\.9 and filter\.apply: sieve"):
        set_up(make_config("sieved", model={"lora": {**LORA, "dropout": 0.9}}, filter=sieved))


def test_scoring_passes_checkpoint_nothing(make_config: MakeConfig) -> None:
    """Gradient checkpointing serves the backward alone."""
    session = set_up(make_config(model={"lora": LORA, "gradient_checkpointing": True}))
    calls = []
    for part in session.model.modules():
        if getattr(part, "gradient_checkpointing", False):
            original = part._gradient_checkpointing_func
            part._gradient_checkpointing_func = lambda *a, of=original: (calls.append(1), of(*a))[1]
    batch = first_batch(session)
    assert session.scorer is not None
    session.scorer.measure(batch)
    assert not calls
    session.trainer.train([batch])
    assert calls


OTHERS = [pytest.param(seed, marks=[pytest.mark.slow, pytest.mark.other_seeds]) for seed in (4, 5, 6, 7, 8)]


@pytest.mark.parametrize("seed", [3, *OTHERS])
def test_the_filter_drops_planted_pairs(make_config: MakeConfig, tmp_path: Path, seed: int) -> None:
    """A picture that the adapter learns by heart is condemned, the others are left alone."""
    build_openmoji(tmp_path / "emoji", DatasetPlan(size=32, limit=130, held_out_fraction=0.4, plant=["1x40"]))
    names = ["to_k", "to_q", "to_v", "to_out.0", "conv1", "conv2", "conv_out"]
    config = make_config(
        model={"path": str(ROOT / "assets" / "tiny-sd"), "lora": {"target_modules": names, "rank": 8}},
        data={
            "path": str(tmp_path / "emoji" / "train"),
            "held_out_path": str(tmp_path / "emoji" / "held_out"),
            "resolution": 32,
        },
        filter={"false_drop_rate": 0.02, "held_out_per_window": 16, "record": []},
        train={"steps": 26, "batch_size": 16, "caption_dropout": 0.0, "seed": seed},
        optimizer={"lr": 1e-2},
    )
    session = set_up(config)
    before = base_weights(session)
    summary = fit(session)
    assert session.filter is not None
    most = max(session.filter.suspects(24), key=lambda standing: standing.exposures)
    compared = int((session.filter.groups["scored"] >= MIN_SWEEPS).sum())
    assert most.exposures > 100 and compared > 30
    assert set(session.filter.condemned) == {most.group} and summary["dropped"]
    assert all(torch.equal(value, before[name]) for name, value in base_weights(session).items())


def test_a_warm_up_does_not_spoil_the_bar(make_config: MakeConfig) -> None:
    """At a learning rate of 0 the network is the reference to the last bit, and nothing can be learned of a spread."""
    session = set_up(
        make_config(
            model={"lora": LORA},
            filter={"held_out_per_window": 16, "record": [], "false_drop_rate": 0.05},
            optimizer={"lr": 1e-2, "schedule": "constant_with_warmup", "warmup_steps": 3},
            train={"steps": 10},
        )
    )
    fit(session)
    assert session.filter is not None
    assert session.filter.held_out.ready and session.filter.evidence_bar < 30.0


@pytest.mark.usefixtures("from_the_first_visit")
def test_the_sieve_and_the_adapter(make_config: MakeConfig) -> None:
    """At the loader measured visits and held-out pairs are compared with the network, adapter off, too."""
    options = {"apply": "sieve", "score_budget": 1.0, "ledger_kept": True, "held_out_per_window": 24}
    config = make_config(model={"lora": LORA}, filter=options, optimizer={"lr": 1e-2}, train={"steps": 12})
    summary = fit(set_up(config))
    ratios = [row["reference_ratio"] for row in read_ledger(config.output / "ledger").to_pylist()]
    found = [value for value in ratios if value is not None and np.isfinite(value)]
    assert summary["updates"] == 12 and summary["remainder"] == 0 and len(found) > 4
    assert any(abs(value) > 1e-3 for value in found)


@pytest.mark.parametrize("ema", [False, True])
def test_resume_is_bit_equal(make_config: MakeConfig, ema: bool) -> None:
    """And a checkpoint holds the adapter, not the base."""
    sections = {
        "model": {"lora": {**LORA, "dropout": 0.2}, "ema": ema, "ema_decay": 0.5},
        "checkpoint": {"every": 3, "export": False},
    }
    whole = set_up(make_config("whole", **sections))
    fit(whole)
    first = make_config("parts", **sections)
    first.train.steps = 3
    fit(set_up(first))
    saved = load_file(first.output / "checkpoints" / "step-00000003" / "model.safetensors")
    assert saved and all(".lora_" in name for name in saved)
    again = make_config("parts", **sections)
    resumed = set_up(again)
    assert resumed.step == 3
    fit(resumed)
    assert torch.equal(adapter(whole), adapter(resumed))
    if ema:
        assert whole.ema is not None and resumed.ema is not None
        assert len(whole.ema.shadow_params) == len(trained_parameters(whole.model))
        for a, b in zip(whole.ema.shadow_params, resumed.ema.shadow_params, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("target_modules", [None, ["to_k", "to_out.0", "conv1", "conv_out", "ff.net.0.proj"]])
def test_the_export_loads_in_the_plain_pipeline(
    make_config: MakeConfig, tiny_model: Path, ema: bool, target_modules: list[str] | None
) -> None:
    """``load_lora_weights`` on the base gives the images of the network in training; alpha is not the rank here."""
    config = make_config(
        model={"lora": {**LORA, "target_modules": target_modules}, "ema": ema, "ema_decay": 0.1},
        checkpoint={"export": True},
        optimizer={"lr": 3e-2},
    )
    session = set_up(config)
    fit(session)
    assert sorted(p.name for p in (config.output / "lora").iterdir()) == ["base_model.json", KOHYA_FILE, LORA_FILE]
    options: dict[str, Any] = {"num_inference_steps": 3, "output_type": "np", "height": 16, "width": 16}

    def images(pipe: Any) -> Any:
        pipe.set_progress_bar_config(disable=True)
        return pipe(["pair 1", "pair 2"], generator=torch.Generator().manual_seed(0), **options).images

    plain = StableDiffusionPipeline.from_pretrained(tiny_model)
    plain.scheduler = session.denoiser.noise_scheduler
    base = images(plain)
    plain.load_lora_weights(str(config.output / "lora"))
    loaded = images(plain)
    trained = images(session.denoiser.pipeline(session.model.eval()))  # the average was copied in for the export
    assert np.abs(loaded - trained).max() < 1e-5 < 1e-3 < np.abs(loaded - base).max()
    opened = open_denoiser(str(config.output / "lora"))  # what audits and checks of the result start from
    assert np.abs(images(opened.pipeline()) - trained).max() < 1e-5


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """Accelerate holds one precision per process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.usefixtures("fresh_accelerator")
def test_a_half_precision_base(make_config: MakeConfig, precision: str) -> None:
    """The base and the frozen parts in half precision, the adapter and its optimizer in single."""
    config = make_config(
        model={"lora": LORA, "dtype": "bfloat16"},
        train={"mixed_precision": precision},
        validation={"prompts": ["pair 1"], "sampling_steps": 1},
        checkpoint={"export": True},
    )
    session = set_up(config)
    before = adapter(session).clone()
    summary = fit(session)
    assert all(value.dtype == torch.bfloat16 for value in base_weights(session).values())
    assert {p.dtype for p in trained_parameters(session.model)} == {torch.float32}
    assert summary["updates"] == 6 and np.isfinite(summary["heldout_loss"])
    assert not torch.equal(before, adapter(session))
    assert load_file(config.output / "lora" / LORA_FILE)


def two_ranks(batch: int, accumulation: int) -> dict[str, Any]:
    """Verdicts by the ratio to the adapter-off network, loose enough that some pairs are condemned in a few steps."""
    return {
        "model": {"lora": {"rank": 4, "target_modules": ["to_k", "to_q", "to_v", "to_out.0", "conv1", "conv2"]},
                  "gradient_checkpointing": True},
        "filter": {"signals": ["loss", "reference_residual"], "false_drop_rate": 0.98, "held_out_per_window": 24,
                   "ledger_kept": True},
        "train": {"steps": 8, "batch_size": batch, "accumulation": accumulation},
        "optimizer": {"name": "sgd", "lr": 1.0, "weight_decay": 0.0},
        "checkpoint": {"every": 4, "export": True},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_two_ranks_are_one_process(
    make_config: MakeConfig, run_ranks: Any, tmp_path: Path, tiny_model: Path, engine: str
) -> None:
    """Same verdicts, same update, same export; and a resume that is bit-equal."""
    one = make_config("one", **two_ranks(24, 1))
    session = set_up(one)
    start = {name: p.detach().clone() for name, p in session.model.named_parameters() if p.requires_grad}
    summary = fit(session)
    jobs = [{"name": "whole", "config": make_config("whole", **two_ranks(6, 2)).model_dump(mode="json")}]
    first = make_config("parts", **two_ranks(6, 2)).model_dump(mode="json")
    second = {**first}
    first = {**first, "train": {**first["train"], "steps": 4}, "checkpoint": {**first["checkpoint"], "export": False}}
    ranks = run_ranks(engine, [*jobs, {"name": "first", "config": first}, {"name": "second", "config": second}])
    theirs = ranks.outcomes[0]["whole"]["summary"]
    for name in ("read", "trained", "dropped", "groups", "condemned_groups"):
        assert summary[name] == theirs[name], name
    assert 0 < summary["condemned_groups"] < summary["groups"]
    ledgers = [read_ledger(folder / "ledger").to_pylist() for folder in (one.output, tmp_path / "whole")]
    places = [{(r["stream"], r["epoch"], r["offset"]): r for r in ledger} for ledger in ledgers]
    assert places[0].keys() == places[1].keys()
    for place, row in places[0].items():
        assert row["action"] == places[1][place]["action"] and row["weight"] == places[1][place]["weight"]
        assert row["reference_ratio"] == pytest.approx(places[1][place]["reference_ratio"], abs=1e-4)
    weights = ranks.state("whole")["weights"]
    moved = torch.cat([(p.detach() - start[n]).flatten() for n, p in session.model.named_parameters() if n in start])
    apart = torch.cat([(p.detach() - weights[n]).flatten() for n, p in session.model.named_parameters() if n in start])
    assert float(apart.norm() / moved.norm()) < 1e-5
    exported = [load_file(folder / "lora" / LORA_FILE) for folder in (one.output, tmp_path / "whole")]
    for name, value in exported[0].items():
        assert torch.allclose(value, exported[1][name], atol=1e-5), name
    assert ranks.outcomes[0]["second"]["started_at"] == 4
    assert torch.equal(ranks.weights("second"), ranks.weights("whole"))
