"""What a model is asked at validation: its held-out loss at fixed draws, its magnitudes, images at fixed seeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from memsieve.filtering.data.draws import normal_like, row_generator
from memsieve.filtering.data.rows import Row
from memsieve.train.batch import build_batch
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.visits import draw_visits, plain_samples

__all__ = ["held_out_loss", "image_grid", "pair_losses", "probe_magnitude", "validation_images"]


def held_out_loss(
    denoiser: Any, model: torch.nn.Module, rows: list[Row], *, seed: int, resolution: int, draws: int, batch_size: int
) -> float:
    """Mean denoising loss of pairs that are never trained on, at (t, noise) that are the same at every call."""
    options = {"seed": seed, "resolution": resolution, "draws": draws, "batch_size": batch_size}
    return float(pair_losses(denoiser, model, rows, **options).double().mean()) if rows else 0.0


@torch.no_grad()
def pair_losses(
    denoiser: Any, model: torch.nn.Module, rows: list[Row], *, seed: int, resolution: int, draws: int, batch_size: int
) -> torch.Tensor:
    """Denoising loss [pairs, draws] float32 of each of ``rows`` at (t, noise) that are the same at every call."""
    model.eval()
    settings = DrawSettings(seed, resolution)  # at plain noise, whatever the run is trained at
    shapes: dict[torch.Size, list[tuple[int, int]]] = {}
    for draw in range(draws):
        for i, row in enumerate(rows):
            shapes.setdefault(row.pixels.shape, []).append((i, draw))
    found = torch.zeros(len(rows), draws)
    parts = [jobs[start : start + batch_size] for jobs in shapes.values() for start in range(0, len(jobs), batch_size)]
    for part in parts:
        mine = [rows[i] for i, _ in part]
        positions = [(f"held-out loss {rows[i].group}", draw, 0) for i, draw in part]
        samples = plain_samples(mine, settings, positions)
        batch = build_batch(denoiser, draw_visits(denoiser, samples, settings))
        prediction = denoiser.predict(model, batch.noisy, batch.timesteps, batch.conditioning)
        target = denoiser.target(batch.latents, batch.noise, batch.timesteps)
        losses = (prediction.float() - target).square().flatten(1).mean(1).cpu()
        found[[i for i, _ in part], [draw for _, draw in part]] = losses
    model.train()
    return found


@torch.no_grad()
def probe_magnitude(denoiser: Any, model: torch.nn.Module, captions: list[str], *, seed: int, resolution: int) -> float:
    """Mean ||Delta||_2 of ``captions`` on fixed pure noise at the sampler's first timestep: no training image needed.

    Native, not in epsilon space, which says nothing there for v-prediction with zero terminal SNR.
    """
    model.eval()
    shape = denoiser.latent_shape(resolution)
    noise = [normal_like(row_generator(seed, i, purpose="probe"), shape) for i in range(len(captions))]
    noisy = torch.stack(noise).to(denoiser.device)
    last = torch.full((len(captions),), denoiser.num_train_timesteps - 1, device=denoiser.device)
    timesteps = denoiser.timesteps_at(last)
    states = denoiser.conditioning(captions), denoiser.unconditional(len(captions))
    cond, uncond = (denoiser.predict(model, noisy, timesteps, s.to(dtype=torch.float32)).float() for s in states)
    model.train()
    return float((cond - uncond).flatten(1).norm(dim=1).mean())


@torch.no_grad()
def validation_images(
    denoiser: Any,
    model: torch.nn.Module,
    prompts: list[str],
    *,
    seed: int,
    steps: int,
    guidance_scale: float,
    resolution: int,
) -> list[Image.Image]:
    """One image per prompt, each from its own fixed seed."""
    cond = denoiser.conditioning(prompts).to(dtype=torch.float32)
    uncond = None
    if guidance_scale > 1 and denoiser.distilled is None:
        uncond = denoiser.unconditional(len(prompts)).to(dtype=torch.float32)
    pipe = denoiser.pipeline(model)  # after the prompts: what a cache knows of them sends the encoders and the VAE away
    pipe.scheduler = denoiser.sampler()
    for name, part in pipe.components.items():
        if name.startswith("text_encoder") and part is not None and part.dtype != torch.float32:
            setattr(pipe, name, _Encoded(part.config, denoiser.device))
    model.eval()
    generators = [torch.Generator("cpu").manual_seed(seed * 1000 + i) for i in range(len(prompts))]
    images: list[Image.Image] = pipe(
        **denoiser.call_arguments(cond, uncond, guidance_scale),
        num_inference_steps=steps,
        generator=generators,
        height=resolution,
        width=resolution,
    ).images
    model.train()
    return images


class _Encoded(torch.nn.Module):
    """Stands for a half-precision text encoder whose work is done: pipelines cast the embeddings that they are given to
    their encoder's dtype, and the network and the VAE are float32."""

    dtype = torch.float32

    def __init__(self, config: Any, device: torch.device) -> None:
        super().__init__()
        self.config, self.device = config, device


def image_grid(images: list[Image.Image], path: Path, scale: int = 1) -> Path:
    """Write ``images`` as one PNG, about square."""
    columns = math.ceil(math.sqrt(len(images)))
    width, height = images[0].width * scale, images[0].height * scale
    sheet = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height), "white")
    for i, image in enumerate(images):
        sheet.paste(
            image.resize((width, height), Image.Resampling.NEAREST), (i % columns * width, i // columns * height)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path
