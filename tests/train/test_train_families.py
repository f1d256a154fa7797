"""Every model family through the whole of training: the step, the filter, resume, export, two ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxPipeline

from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.filtering.ledger import read_ledger
from memsieve.train.config import RunConfig
from memsieve.train.engine import cast_inputs
from memsieve.train.loop import fit, window_batches
from memsieve.train.probes import validation_images
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from tests.guided_calls import guidance
from tests.tiny_models import DISTILLED, FLOW, OLDER, RECENT, TINY_FAMILIES, recent_slow, side_of, tiny_family
from tests.train.recent_examples import EXAMPLES, example_latents

Make = Callable[..., RunConfig]


@pytest.fixture
def make(make_family: Make) -> Make:
    return make_family


# -- the step, as diffusers' examples have it --------------------------------------------------------------------------


def example_loss(name: str, pipe: Any, batch: Any) -> torch.Tensor:
    """Loss of one batch as the family's diffusers example computes it, from latents, noise, timesteps and captions."""
    captions = [visit.caption for visit in batch.visits]
    model_input, noise, timesteps = batch.latents, batch.noise, batch.timesteps
    if name in FLOW:
        config = pipe.scheduler.config
        shift = config.get("flow_shift")  # of Sana's DPM-Solver, which its example leaves out: see the adapter
        scheduler = FlowMatchEulerDiscreteScheduler.from_config({**config, **({"shift": shift} if shift else {})})
        indices = [int((scheduler.timesteps - t).abs().argmin()) for t in timesteps]
        sigmas = scheduler.sigmas[indices].view(-1, 1, 1, 1)
        assert torch.equal(scheduler.timesteps[indices], timesteps)
        noisy = (1.0 - sigmas) * model_input + sigmas * noise
        target = noise - model_input
    else:
        scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        noisy, target = scheduler.add_noise(model_input, noise, timesteps), noise
    if name in EXAMPLES:
        prediction = EXAMPLES[name](pipe, captions, noisy, timesteps)
    elif name == "sd":
        prediction = pipe.unet(noisy, timesteps, pipe.encode_prompt(captions, "cpu", 1, False)[0]).sample
    elif name == "sdxl":
        states, _, pooled, _ = pipe.encode_prompt(captions, device="cpu", do_classifier_free_guidance=False)
        time_ids = torch.tensor([[16, 16, 0, 0, 16, 16]] * len(captions), dtype=torch.float32)
        added = {"time_ids": time_ids, "text_embeds": pooled}
        prediction = pipe.unet(noisy, timesteps, states, added_cond_kwargs=added).sample
    elif name == "sd3":
        states, _, pooled, _ = pipe.encode_prompt(captions, None, None, "cpu", do_classifier_free_guidance=False)
        prediction = pipe.transformer(
            hidden_states=noisy, timestep=timesteps, encoder_hidden_states=states, pooled_projections=pooled,
            return_dict=False,
        )[0]  # fmt: skip
    elif name == "pixart":
        states, mask, _, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False, device="cpu")
        prediction = pipe.transformer(
            noisy, encoder_hidden_states=states, encoder_attention_mask=mask, timestep=timesteps,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample.chunk(2, 1)[0]  # fmt: skip
    else:
        states, pooled, text_ids = pipe.encode_prompt(captions, None, device="cpu")
        count, channels, height, width = model_input.shape
        guidance = torch.tensor([1.0]).expand(count) if pipe.transformer.config.guidance_embeds else None
        packed = pipe.transformer(
            hidden_states=FluxPipeline._pack_latents(noisy, count, channels, height, width),
            timestep=timesteps / 1000, guidance=guidance, pooled_projections=pooled, encoder_hidden_states=states,
            txt_ids=text_ids, return_dict=False,
            img_ids=FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, "cpu", torch.float32),
        )[0]  # fmt: skip
        factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
        prediction = FluxPipeline._unpack_latents(packed, height * factor, width * factor, factor)
    weighting = torch.ones(len(target), 1, 1, 1)
    return torch.mean((weighting * (prediction.float() - target.float()) ** 2).reshape(len(target), -1), 1).mean()


def raw_latents(name: str, pipe: Any, session: Session, batch: Any, rows: list[Any]) -> torch.Tensor:
    """The batch's latents once more: VAE and its scale and shift as in the examples."""
    from memsieve.filtering.data.draws import normal_like, row_generator

    noises = []
    for row in rows:
        draw = row_generator(session.config.train.seed, row.stream, row.epoch, row.offset, purpose="noise")
        draw.integers(1000)
        normal_like(draw, batch.noise.shape[1:])
        noises.append(normal_like(draw, batch.noise.shape[1:]))
    return example_latents(name, pipe, torch.stack([row.pixels for row in rows]), torch.stack(noises))


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_loss_and_gradient_of_a_step_are_the_examples(name: str, make: Make) -> None:
    config = make(
        name, filter={"enabled": False}, train={"caption_dropout": 0.0}, checkpoint={"export": False},
        optimizer={"name": "sgd", "lr": 1.0, "weight_decay": 0.0, "max_grad_norm": 1e9},
    )  # fmt: skip
    session = set_up(config)
    window = next(iter(session.loader))
    rows = [row for row in window.rows if row is not None]
    batch = window_batches(session, window)[0]
    pipe = tiny_family(name)
    network = getattr(pipe, "unet", None) or pipe.transformer
    before = {n: p.detach().clone() for n, p in session.model.named_parameters()}
    assert all(torch.equal(before[n], p) for n, p in network.named_parameters()), "the same network"
    assert torch.allclose(batch.latents, raw_latents(name, pipe, session, batch, rows), atol=1e-6)
    loss = example_loss(name, pipe, batch)
    loss.backward()
    result = session.trainer.train([batch])
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    steps = {n: before[n] - p.detach() for n, p in session.model.named_parameters()}
    scale = max(float(p.grad.abs().max()) for p in network.parameters() if p.grad is not None)
    assert scale > 1e-4
    for n, p in network.named_parameters():
        gradient = torch.zeros_like(p) if p.grad is None else p.grad
        assert torch.allclose(steps[n], gradient, rtol=1e-5, atol=1e-5 * scale + 1e-7), n


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_a_dropped_caption_is_the_familys_unconditional(name: str, make: Make) -> None:
    session = set_up(make(name, filter={"enabled": False}, train={"caption_dropout": 1.0}))
    batch = window_batches(session, next(iter(session.loader)))[0]
    expected = session.denoiser.unconditional(len(batch.visits))
    assert torch.equal(batch.conditioning.encoder_hidden_states, expected.encoder_hidden_states)
    assert torch.equal(batch.conditioning.pooled, expected.pooled) and not any(batch.captioned)  # type: ignore[arg-type]


# -- the run -----------------------------------------------------------------------------------------------------------


def vector(pipe: Any) -> torch.Tensor:
    network = getattr(pipe, "unet", None) or pipe.transformer
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("name", recent_slow())
def test_train_resume_export_and_draw(name: str, make: Make, family_folder: Callable[[str], Path]) -> None:
    """Filtered; stopped after two steps and resumed it is the run that was not stopped, and diffusers loads it."""
    options: dict[str, Any] = {
        "validation": {"prompts": ["pair 1"], "sampling_steps": 2, "held_out_pairs": 8, "held_out_draws": 1},
        "checkpoint": {"every": 2, "export": True},
    }
    whole, halves = make(name, "whole", **options), make(name, "halves", **options)
    summary = fit(set_up(whole))
    first = halves.model_copy(deep=True)
    first.train.steps = 2
    fit(set_up(first))
    session = set_up(halves)
    assert session.step == 2
    fit(session)
    pipes = [DiffusionPipeline.from_pretrained(c.output / "pipeline", use_safetensors=True) for c in (whole, halves)]
    start = DiffusionPipeline.from_pretrained(family_folder(name))
    assert type(pipes[0]) is type(start)
    assert torch.equal(vector(pipes[0]), vector(pipes[1])) and not torch.equal(vector(pipes[0]), vector(start))
    assert summary["read"] == 32 and summary["updates"] == 4
    assert (whole.output / "samples" / "step-000004.png").is_file()
    rows = read_ledger(whole.output / "ledger").to_pylist()
    assert all(0 <= row["timestep"] <= 1000 for row in rows)
    pipes[0].set_progress_bar_config(disable=True)
    options, side = guidance(pipes[0], 1.0 if name in DISTILLED else 3.0), side_of(name)
    images = pipes[0](
        prompt="pair 1", num_inference_steps=2, height=side, width=side, output_type="pt", **options
    ).images
    assert images.shape == (1, 3, side, side) and torch.isfinite(images).all()


@pytest.mark.parametrize(
    "name", recent_slow(["sdxl", "sd3", "flux", "pixart", "sana", "z_image", "qwen_image", "flux_2_klein"])
)
def test_signals_are_the_formulas(name: str, make: Make) -> None:
    """Every signal that the family has, of one batch and after two steps, from predictions of our own."""
    session = set_up(make(name, train={"caption_dropout": 0.0, "steps": 8}, optimizer={"lr": 0.02}))
    reference = tiny_family(name)
    frozen = getattr(reference, "unet", None) or reference.transformer
    loader = iter(session.loader)
    for _ in range(2):
        session.trainer.train(window_batches(session, next(loader)))
    batch = window_batches(session, next(loader))[0]
    while not any(batch.usable):  # a large shift leaves few draws below filter.max_timestep
        batch = window_batches(session, next(loader))[0]
    assert session.scorer is not None
    found = session.scorer.measure(batch).signals
    denoiser, states = session.denoiser, batch.conditioning
    with torch.no_grad():
        cond, ref = (denoiser.predict(m, batch.noisy, batch.timesteps, states) for m in (session.model.eval(), frozen))
        eps, ref_eps = (denoiser.to_epsilon(p, batch.noisy, batch.timesteps) for p in (cond, ref))
    losses, ref_losses = ((e - batch.noise).square().flatten(1).mean(1) for e in (eps, ref_eps))
    assert torch.allclose(found["loss"], losses, rtol=1e-4)
    small = denoiser.epsilon_factor(batch.timesteps) < 0.05
    assert [not s for s in small.tolist()] == batch.readable
    scored, readable = torch.tensor(batch.usable), torch.tensor(batch.readable)
    assert torch.equal(scored, readable & (batch.timesteps < 750))
    assert torch.equal(found["reference_ratio"].isfinite(), scored), "no pass is spent on the others"
    assert torch.allclose(found["reference_ratio"][scored], (1 - losses / ref_losses)[scored], atol=1e-4)
    assert found["reference_ratio"][scored].abs().max() > 1e-3, "the model has moved"
    if name == "flux":
        assert "magnitude" not in found
        return
    with torch.no_grad():
        uncond = denoiser.predict(session.model, batch.noisy, batch.timesteps, denoiser.unconditional(len(eps)))
    delta = (cond - uncond).flatten(1).norm(dim=1) * denoiser.epsilon_factor(batch.timesteps).float()
    assert torch.allclose(found["magnitude"][readable], delta[readable], rtol=1e-3, atol=1e-5) and delta.max() > 0.02


def test_logit_normal_draws_the_middle_more_often(make: Make) -> None:
    def drawn(weighting: str) -> torch.Tensor:
        config = make("flux_guided", weighting, filter={"enabled": False}, train={"timestep_weighting": weighting})
        session = set_up(config)
        return torch.cat(
            [window_batches(session, window)[0].timesteps for _, window in zip(range(8), session.loader, strict=False)]
        )

    uniform, normal = drawn("uniform"), drawn("logit_normal")
    assert len(uniform) == 64 and float(normal.std()) < 0.85 * float(uniform.std())
    assert torch.equal(uniform.argsort(), normal.argsort()), "the same draws, on another scale"


@pytest.mark.parametrize("name", recent_slow())
def test_half_precision_text_encoders(name: str, make: Make) -> None:
    """Frozen encoders in bfloat16, network and VAE in float32: about the same embeddings, and a run."""
    config = make(name, model={"path": str(make(name).model.path), "text_encoder_dtype": "bfloat16"})
    session = set_up(config)
    assert {p.dtype for p in session.denoiser.text_encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in session.model.parameters()} | {p.dtype for p in session.denoiser.vae.parameters()} == {
        torch.float32
    }
    batch = window_batches(session, next(iter(session.loader)))[0]
    full = set_up(make(name, "other")).denoiser.conditioning([v.caption for v in batch.visits])
    assert batch.conditioning.encoder_hidden_states.dtype == torch.float32
    kept = torch.tensor(batch.captioned)
    difference = (batch.conditioning.encoder_hidden_states - full.encoder_hidden_states)[kept].abs().mean()
    assert 0 < difference < 0.03 * full.encoder_hidden_states.abs().max()
    assert session.trainer.train([batch]).loss > 0
    side = side_of(name)
    options: dict[str, Any] = {"seed": 0, "steps": 2, "guidance_scale": 3.0, "resolution": side}
    (image,) = validation_images(session.denoiser, session.model, ["cat"], **options)
    assert image.size == (side, side)
    assert {p.dtype for p in session.denoiser.text_encoder.parameters()} == {torch.bfloat16}, "as it was"


@pytest.mark.parametrize("name", recent_slow())
def test_a_half_precision_network_under_deepspeed_takes_float32(name: str) -> None:
    """Nested conditioning too; the timesteps that it is told are not rounded to half precision."""
    pipe = tiny_family(name)
    denoiser = denoiser_of(pipe)
    noisy = torch.randn(2, *denoiser.latent_shape(side_of(name)), generator=torch.Generator().manual_seed(0))
    t, states = denoiser.timesteps_at(torch.tensor([400, 901])), denoiser.conditioning(["cat", "dog"])
    with torch.no_grad():
        full = denoiser.predict(denoiser.model, noisy, t, states)
        half = denoiser.model.to(torch.bfloat16)
        cast_inputs(half)
        told: list[Any] = []
        half.register_forward_hook(lambda module, args, kwargs, output: told.append((args, kwargs)), with_kwargs=True)
        found = denoiser.predict(half, noisy, t, states)
    args, kwargs = told[0]
    given = kwargs["timestep"] if "timestep" in kwargs else args[1]
    if name in ("z_image", "lumina_2"):
        assert torch.equal(given, (1000 - t) / 1000) or torch.equal(given, 1 - t / 1000)
    else:
        assert torch.equal(given, t / 1000 if "flux" in name or name == "qwen_image" else t)
    assert found.dtype == torch.float32 and torch.allclose(found, full, atol=0.1 * float(full.std()) + 0.02)


# -- two ranks ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["ddp", "zero2"])
@pytest.mark.parametrize("names", [OLDER, RECENT], ids=["older", "recent"])
def test_two_ranks_are_one_process(names: tuple[str, ...], engine: str, run_ranks: Any, make: Make) -> None:
    """Filtered by the raw reference ratio, so that some are dropped: two ranks of 4 give the update of one of 8."""
    # Not 0: at the first step the model is its own reference, and float noise would decide.
    rule = {"signals": ["reference_ratio"], "rule": "threshold", "threshold": 1e-4}
    jobs, alone, dropped, outputs, idle = [], {}, {}, {}, {}
    for name in names:
        filter = {**rule, "record": ["loss"] if name in DISTILLED else ["loss", "magnitude"]}
        common: dict[str, Any] = {
            "filter": filter,
            "optimizer": {"name": "sgd", "lr": 0.05},
            "checkpoint": {"export": True},
        }
        one = make(name, f"{name}-1", train={"batch_size": 8}, **common)
        two = make(name, f"{name}-2", train={"batch_size": 4}, **common)
        session = set_up(one)
        summary = fit(session)
        # DeepSpeed has what no gradient reaches in half precision alone.
        idle[name] = session.denoiser.idle_layers
        alone[name] = in_a_row(session.model.state_dict(), idle[name])
        dropped[name] = sum(summary["dropped"].values())
        outputs[name] = two.output
        jobs.append({"name": name, "config": two.model_dump(mode="json")})
    ranks = run_ranks(engine, jobs)
    for name in names:
        start = tiny_family(name)
        network = getattr(start, "unet", None) or start.transformer
        found = ranks.state(name)["weights"]
        before = in_a_row({key: value for key, value in network.state_dict().items() if key in found}, idle[name])
        theirs = in_a_row(found, idle[name])
        assert len(before) == len(theirs) == len(alone[name])
        moved = float((alone[name] - before).abs().max())
        assert moved > 1e-4 and float((theirs - alone[name]).abs().max()) < max(1e-6, 1e-3 * moved), name
        exported = DiffusionPipeline.from_pretrained(outputs[name] / "pipeline", use_safetensors=True)
        assert type(exported) is type(start) and float((vector(exported) - vector(start)).abs().max()) > 1e-4
        assert sum(ranks.outcomes[0][name]["summary"]["dropped"].values()) == dropped[name] > 0, name


def in_a_row(weights: dict[str, torch.Tensor], without: tuple[str, ...]) -> torch.Tensor:
    """All weights by the order of their names, but those whose names begin so."""
    return torch.cat([weights[key].flatten() for key in sorted(weights) if not key.startswith(without)])
