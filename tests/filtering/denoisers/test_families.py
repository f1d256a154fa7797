"""Every family's adapter says what its diffusers pipeline does, and all of them agree in epsilon space."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from memsieve.filtering.denoisers.fingerprint import model_hashes
from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from tests.tiny_models import TINY_FAMILIES, tiny_family

Folder = Callable[[str], Path]

PROMPTS = ["cat dog", "red hat on a mat"]


def pipe_options(pipe: Any, scale: float) -> dict[str, Any]:
    """How the family's pipeline is told to guide by ``scale``, and to leave prompt and size alone."""
    names = inspect.signature(type(pipe).__call__).parameters
    found: dict[str, Any] = {name: False for name in ("use_resolution_binning", "clean_caption") if name in names}
    if "true_cfg_scale" in names and not pipe.transformer.config.guidance_embeds:
        return {**found, "true_cfg_scale": scale, "negative_prompt": ""}
    return {**found, "guidance_scale": scale}


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_a_prompt_and_its_embeddings_give_the_same_image(name: str, family_folder: Folder) -> None:
    """Encoders, unconditional, pooled embeddings, masks, time ids, packing: all as the pipeline has them."""
    pipe = DiffusionPipeline.from_pretrained(family_folder(name))
    pipe.set_progress_bar_config(disable=True)
    denoiser = open_denoiser(str(family_folder(name)))
    options: dict[str, Any] = {"num_inference_steps": 3, "height": 16, "width": 16, "output_type": "pt"}
    noise = torch.randn(2, *denoiser.latent_shape(16), generator=torch.Generator().manual_seed(0))
    cond = denoiser.conditioning(PROMPTS)
    uncond = None if denoiser.distilled else denoiser.unconditional(2)
    arguments = denoiser.call_arguments(cond, uncond, 3.0, noise)
    expected = pipe(PROMPTS, latents=arguments["latents"], **pipe_options(pipe, 3.0), **options).images
    assert expected.std() > 0.05 and torch.allclose(pipe(**arguments, **options).images, expected, atol=1e-5)
    if uncond is not None:
        unguided = pipe(**denoiser.call_arguments(cond, None, 3.0, noise), **options).images
        assert not torch.allclose(unguided, expected, atol=1e-4), "guidance does something"


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_the_network_is_called_as_the_pipeline_calls_it(name: str) -> None:
    """The first call of a sampling pipeline, read back and repeated by ``predict``, gives the same prediction."""
    pipe = tiny_family(name)
    denoiser, calls = denoiser_of(pipe), []
    hook = denoiser.model.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((args, kwargs, output)), with_kwargs=True
    )
    pipe(PROMPTS, num_inference_steps=2, height=16, width=16, output_type="latent", **pipe_options(pipe, 3.0))
    hook.remove()
    args, kwargs, output = calls[0]
    noisy, timestep, conditioning = denoiser.read_call(args, kwargs)
    assert noisy.shape[1:] == denoiser.latent_shape(16) and len(noisy) == len(conditioning)
    alone = len(calls) == 2  # one call a step: both branches in a row, or none
    assert len(noisy) == (4 if alone and denoiser.distilled is None else 2)
    assert denoiser.separate_branches or alone
    if not denoiser.distilled and alone:
        first, second = noisy.chunk(2)
        assert torch.equal(first, second)
        unconditional = denoiser.unconditional(2).encoder_hidden_states
        assert torch.allclose(conditioning.encoder_hidden_states[:2], unconditional, atol=1e-6)
    times = timestep.expand(len(noisy)) if timestep.ndim == 0 else timestep
    if denoiser.config.get("guidance_embeds"):
        type(denoiser).embedded_guidance, kept = 3.0, type(denoiser).embedded_guidance
    try:
        with torch.no_grad():
            ours = denoiser.predict(denoiser.model, noisy, times, conditioning)
    finally:
        if denoiser.config.get("guidance_embeds"):
            type(denoiser).embedded_guidance = kept
    theirs = output[0]
    if theirs.ndim == 3:  # packed
        theirs = denoiser._unpack(theirs, *noisy.shape[-2:])
    assert torch.allclose(ours, theirs[:, : ours.shape[1]], atol=1e-6) and ours.std() > 0.05


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_latents_are_those_that_the_pipeline_decodes(name: str) -> None:
    """encode -> latents -> the pipeline's own scaling back: what went into the VAE's decoder."""
    pipe = tiny_family(name)
    denoiser = denoiser_of(pipe)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = torch.randn(2, *denoiser.latent_shape(16), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels).latent_dist
    raw = posterior.mean + posterior.std * noise
    shift = pipe.vae.config.get("shift_factor") or 0.0
    latents = denoiser.latents(pixels, noise)
    assert torch.allclose(latents / pipe.vae.config.scaling_factor + shift, raw, atol=1e-5) and latents.std() > 0.01
    assert (shift > 0) == (name in ("sd3", "flux", "flux_guided"))


@pytest.mark.parametrize("name", TINY_FAMILIES)
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
