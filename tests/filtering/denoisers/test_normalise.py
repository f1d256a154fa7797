"""Latents as the network sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
)

from memsieve.filtering.denoisers.cache import CacheFolder
from memsieve.filtering.denoisers.cached import CachedDenoiser
from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from tests.tiny_models import OLDER, tiny_family

MEAN, STD = [-1.6, 0.8, -0.3, 0.2], [8.4, 5.4, 7.6, 4.9]


def with_vae(pipe: Any, **settings: Any) -> Any:
    """The pipeline, its VAE's config changed: the weights stay."""
    vae = AutoencoderKL.from_config(changed(pipe.vae, settings))
    vae.load_state_dict(pipe.vae.state_dict())
    pipe.register_modules(vae=vae.eval())
    return pipe


def changed(part: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Its config with other settings; diffusers notes which ones were left at their defaults, and drops those."""
    return {name: value for name, value in part.config.items() if name != "_use_default_values"} | settings


def decoded_by(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """What the pipeline's own call hands its VAE for the final ``latents`` [1, 4, 8, 8]."""
    handed: list[torch.Tensor] = []
    decode = pipe.vae.post_quant_conv.register_forward_pre_hook(lambda module, args: handed.append(args[0]))

    class Still(type(pipe.scheduler)):  # type: ignore[misc]
        """Sampling that ends at the wanted latents."""

        def step(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
            super().step(*args, **kwargs)
            return (wanted,)

    own, pipe.scheduler = pipe.scheduler, Still.from_config(pipe.scheduler.config)
    wanted = latents
    options = {"use_resolution_binning": False} if "PixArt" in type(pipe).__name__ else {}
    if "Flux" in type(pipe).__name__:
        wanted = pipe._pack_latents(latents, *latents.shape)
    try:
        pipe("cat", num_inference_steps=1, height=16, width=16, output_type="pt", **options)
    finally:
        pipe.scheduler = own
        decode.remove()
    return handed[-1]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, settings) for name in OLDER for settings in ({}, {"latents_mean": MEAN, "latents_std": STD})),
        ("sdxl", {"latents_mean": MEAN}),
    ],
)
def test_latents_are_normalised_as_the_pipeline_undoes_it(name: str, settings: dict[str, Any]) -> None:
    """Through the pipeline's own decoding, with and without latents_mean and latents_std (Playground v2.5)."""
    pipe = with_vae(tiny_family(name), **settings)
    raw = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = denoiser_of(pipe).sample_latents((raw, torch.zeros_like(raw)), torch.zeros_like(raw))
    assert torch.allclose(decoded_by(pipe, latents), raw, atol=1e-5)
    if len(settings) == 2 and name == "sdxl":
        assert (latents - raw * pipe.vae.config.scaling_factor).abs().max() > 0.1, "mean and std did something"


def test_a_shift_that_the_pipeline_does_not_undo_is_not_applied() -> None:
    pipe = with_vae(tiny_family("sd"), shift_factor=0.5)
    raw = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = denoiser_of(pipe).sample_latents((raw, torch.zeros_like(raw)), torch.zeros_like(raw))
    assert torch.allclose(decoded_by(pipe, latents), raw, atol=1e-5)


def test_mean_and_std_hold_in_the_cache_and_in_the_export(tmp_path: Path) -> None:
    with_vae(tiny_family("sdxl"), latents_mean=MEAN, latents_std=STD).save_pretrained(tmp_path / "m")
    denoiser = open_denoiser(str(tmp_path / "m"))
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    expected = denoiser.latents(pixels, noise)
    cached = CachedDenoiser(denoiser, CacheFolder(tmp_path / "cache", {"vae": "x"}))
    assert torch.allclose(cached.latents(pixels, noise), expected)
    denoiser.export(tmp_path / "out", denoiser.model)
    assert torch.allclose(open_denoiser(str(tmp_path / "out")).latents(pixels, noise), expected, atol=1e-6)
    assert json.loads((tmp_path / "out" / "vae" / "config.json").read_text())["latents_std"] == STD
