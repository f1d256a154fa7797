"""Every family's adapter says what its diffusers pipeline does, and all of them agree in epsilon space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from memsieve.filtering.denoisers.fingerprint import model_hashes
from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from tests.guided_calls import guidance, network_of, prediction_of
from tests.tiny_models import FLOW, TINY_FAMILIES, recent_slow, side_of, tiny_family

Folder = Callable[[str], Path]

PROMPTS = ["cat dog", "red hat on a mat"]


@pytest.mark.parametrize("name", recent_slow())
def test_a_prompt_and_its_embeddings_give_the_same_image(name: str, family_folder: Folder) -> None:
    """Encoders, unconditional, pooled embeddings, masks, time ids, packing: all as the pipeline has them."""
    pipe = DiffusionPipeline.from_pretrained(family_folder(name))
    pipe.set_progress_bar_config(disable=True)
    denoiser = open_denoiser(str(family_folder(name)))
    side = side_of(name)
    options: dict[str, Any] = {"num_inference_steps": 3, "height": side, "width": side, "output_type": "pt"}
    noise = torch.randn(2, *denoiser.latent_shape(side), generator=torch.Generator().manual_seed(0))
    cond = denoiser.conditioning(PROMPTS)
    uncond = None if denoiser.distilled else denoiser.unconditional(2)
    arguments = denoiser.call_arguments(cond, uncond, 3.0, noise)
    expected = pipe(prompt=PROMPTS, latents=arguments["latents"], **guidance(pipe, 3.0, 2), **options).images
    assert expected.std() > 0.05 and torch.allclose(pipe(**arguments, **options).images, expected, atol=1e-5)
    if uncond is not None:
        unguided = pipe(**denoiser.call_arguments(cond, None, 3.0, noise), **options).images
        assert not torch.allclose(unguided, expected, atol=1e-4), "guidance does something"


@pytest.mark.parametrize("wide", [1, 2])
@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_the_network_is_called_as_the_pipeline_calls_it(name: str, wide: int) -> None:
    """The first call of a sampling pipeline, read back and repeated by ``predict``, gives the same prediction: of a
    square, and of a picture twice as wide."""
    pipe = tiny_family(name)
    denoiser, calls = denoiser_of(pipe), []
    hook = denoiser.model.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((args, kwargs, output)), with_kwargs=True
    )
    height = side_of(name)
    width = height * wide
    options = {"num_inference_steps": 2, "height": height, "width": width, "output_type": "latent"}
    pipe(prompt=PROMPTS, **options, **guidance(pipe, 3.0, 2))
    hook.remove()
    args, kwargs, output = calls[0]
    noisy, timestep, conditioning = denoiser.read_call(args, kwargs)
    assert noisy.shape[1:] == denoiser.latent_shape(height, width) and len(noisy) == len(conditioning)
    alone = len(calls) == 2  # one call a step: both branches in a row, or none
    assert len(noisy) == (4 if alone and denoiser.distilled is None else 2)
    assert denoiser.separate_branches or alone
    if not denoiser.distilled and alone:
        first, second = noisy.chunk(2)
        assert torch.equal(first, second)
        unconditional = denoiser.unconditional(2).encoder_hidden_states
        first = conditioning.encoder_hidden_states[slice(2, None) if denoiser.prompt_first else slice(2)]
        assert torch.allclose(first, unconditional, atol=1e-6)
    times = timestep.expand(len(noisy)) if timestep.ndim == 0 else timestep
    if denoiser.config.get("guidance_embeds"):
        type(denoiser).embedded_guidance, kept = 3.0, type(denoiser).embedded_guidance
    try:
        with torch.no_grad():
            ours = denoiser.predict(denoiser.model, noisy, times, conditioning)
    finally:
        if denoiser.config.get("guidance_embeds"):
            type(denoiser).embedded_guidance = kept
    theirs = prediction_of(output)
    if theirs.ndim == 3:  # packed
        theirs = denoiser._unpack(theirs, *noisy.shape[-2:])
    if name in ("z_image", "lumina_2"):  # whose pipelines turn its sign
        theirs = -theirs.reshape(ours.shape)
    assert torch.allclose(ours, theirs[:, : ours.shape[1]], atol=1e-6) and ours.std() > 0.05


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_latents_are_those_that_the_pipeline_decodes(name: str) -> None:
    """encode -> latents -> the pipeline's own way back, which ends in the VAE's decoder."""
    pipe = tiny_family(name)
    denoiser, side = denoiser_of(pipe), side_of(name)
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = torch.randn(2, *denoiser.latent_shape(side), generator=torch.Generator().manual_seed(2))
    raw = encoded(name, pipe, pixels, noise)
    latents = denoiser.latents(pixels, noise)
    assert latents.shape == noise.shape and latents.std() > 0.01
    decoded: list[torch.Tensor] = []
    decode = pipe.vae.decode
    pipe.vae.decode = lambda given, **options: (decoded.append(given), decode(given, **options))[1]  # type: ignore[func-returns-value]
    # One step from the latents, whose prediction is made zero: what is decoded are the latents themselves.
    network = network_of(pipe)
    network.register_forward_hook(lambda module, args, output: zeros_like(output))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler() if name in FLOW else pipe.scheduler
    cond = denoiser.conditioning(PROMPTS)
    arguments = denoiser.call_arguments(cond, None, 1.0, latents)
    if name not in FLOW:  # which scale what they predict from
        assert torch.allclose(latents / pipe.vae.config.scaling_factor, raw, atol=1e-5)
        return
    pipe(**arguments, num_inference_steps=1, height=side, width=side, output_type="pt")
    assert torch.allclose(decoded[0].reshape(raw.shape), raw, atol=1e-5)


def encoded(name: str, pipe: Any, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """What the VAE makes of ``pixels``, as diffusers' example takes it: sampled, its mode, or what it gives."""
    with torch.no_grad():
        if name == "sana":
            return pipe.vae.encode(pixels).latent  # type: ignore[no-any-return]
        posterior = pipe.vae.encode(pixels.unsqueeze(2) if name == "qwen_image" else pixels).latent_dist
    if name in ("z_image", "flux_2", "flux_2_klein"):
        return posterior.mode()  # type: ignore[no-any-return]
    return posterior.mean + posterior.std * noise.reshape(posterior.mean.shape)  # type: ignore[no-any-return]


def zeros_like(output: Any) -> Any:
    """Zeros in the form of a network's output."""
    return (
        [torch.zeros_like(row) for row in output[0]] if isinstance(output[0], list) else torch.zeros_like(output[0]),
    )


@pytest.mark.parametrize("name", recent_slow())
def test_export_and_hash_count_every_part(name: str, family_folder: Folder, tmp_path: Path) -> None:
    denoiser = open_denoiser(str(family_folder(name)))
    hashes = model_hashes(denoiser)
    assert {part for part in type(denoiser).parts if getattr(denoiser, part, denoiser.model) is not None} <= set(hashes)
    with torch.no_grad():
        next(denoiser.model.parameters()).add_(1e-3)
    denoiser.export(tmp_path / "out", denoiser.model)
    changed = model_hashes(open_denoiser(str(tmp_path / "out")))
    network = "unet" if "unet" in hashes else "transformer"
    assert {part for part in hashes if hashes[part] != changed[part]} == {network}
    out, start = DiffusionPipeline.from_pretrained(tmp_path / "out"), tiny_family(name)
    assert type(out) is type(start) and type(out.scheduler) is type(start.scheduler), "it samples as before"
    configs = [{k: v for k, v in p.scheduler.config.items() if not k.startswith("_")} for p in (out, start)]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("name", FLOW)
def test_the_true_velocity_leads_back_along_the_path_that_is_trained_on(name: str) -> None:
    """The pipeline's own call from pure noise: each step stands where training noises to, the last is the picture."""
    pipe, side = tiny_family(name), side_of(name)
    denoiser = denoiser_of(pipe)
    generator = torch.Generator().manual_seed(4)
    clean, noise = torch.randn(2, 2, *denoiser.latent_shape(side), generator=generator)
    velocity = denoiser.target(clean, noise, torch.full((2,), 500.0))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    ends: list[torch.Tensor] = []

    def true(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        noisy, timesteps, _ = denoiser.read_call(args, kwargs)
        seen.append((noisy[:2], timesteps.flatten()[:1].expand(2)))
        return denoiser.as_output(networks_own(name, denoiser, velocity)[: len(noisy)], output)

    def note(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        ends.append(values["latents"])
        return values

    network_of(pipe).register_forward_hook(true, with_kwargs=True)
    arguments = denoiser.call_arguments(denoiser.conditioning(PROMPTS), None, 1.0, noise)
    pipe(**arguments, num_inference_steps=4, height=side, width=side, output_type="pt", callback_on_step_end=note)
    exact = 2e-5 if name != "sana" else 5e-3  # DPM-Solver tells whole timesteps
    assert len(seen) == 4 and float(seen[0][1][0]) > float(seen[-1][1][0]) > 0
    for noisy, timesteps in seen:
        assert torch.allclose(noisy, denoiser.add_noise(clean, noise, timesteps), atol=exact)
    end = ends[-1] if ends[-1].ndim == 4 else denoiser._unpack(ends[-1], *clean.shape[-2:])
    assert torch.allclose(end, clean, atol=exact)


def networks_own(name: str, denoiser: Any, velocity: torch.Tensor) -> torch.Tensor:
    """A velocity as the family's network gives it."""
    if name == "z_image":
        return -velocity.unsqueeze(2)
    if name == "lumina_2":
        return -velocity
    if name in ("flux", "flux_guided", "qwen_image"):
        count, channels, height, width = velocity.shape
        patches = velocity.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(count, height * width // 4, 4 * channels)
    return velocity.flatten(2).transpose(1, 2) if name.startswith("flux_2") else velocity


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_a_gradient_reaches_every_parameter_but_those_that_are_idle(name: str) -> None:
    """DDP waits for all that are trained."""
    denoiser = denoiser_of(tiny_family(name))
    noisy = torch.randn(2, *denoiser.latent_shape(side_of(name)), generator=torch.Generator().manual_seed(0))
    times, states = denoiser.timesteps_at(torch.tensor([400, 500])), denoiser.conditioning(PROMPTS)
    denoiser.predict(denoiser.model.train(), noisy, times, states).square().mean().backward()
    without = {part for part, value in denoiser.model.named_parameters() if value.grad is None}
    assert without == {part for part, _ in denoiser.model.named_parameters() if part.startswith(denoiser.idle_layers)}
    assert bool(without) == (name == "qwen_image")
