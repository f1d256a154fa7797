"""How well a finished model fits pairs that it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.copying.decisions import short
from memsieve.filtering.data.held_out import held_out_rows
from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.inference.generate import load_pipeline
from memsieve.train.batch import build_batch
from memsieve.train.config import RunConfig
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.visits import draw_visits, plain_samples

__all__ = ["held_out_losses"]


@torch.no_grad()
def held_out_losses(pipeline: Path, config: RunConfig, draws: int) -> list[float]:
    """Denoising loss of each held-out pair, the mean of ``draws`` (t, noise) that are the same for all methods."""
    denoiser = denoiser_of(load_pipeline(pipeline))
    model: Any = denoiser.model
    model.eval()
    rows = held_out_rows(config.data.model_copy(update={"held_out_max": 100_000}), 0)
    rows.sort(key=lambda row: row.group)
    losses, settings = np.zeros(len(rows)), DrawSettings(seed=0, resolution=config.data.resolution)
    for draw in range(draws):
        for start in range(0, len(rows), 16):
            part = rows[start : start + 16]
            samples = plain_samples(part, settings, [(f"held-out loss {row.group}", draw, 0) for row in part])
            batch = build_batch(denoiser, draw_visits(denoiser, samples, settings))
            prediction = denoiser.predict(model, batch.noisy, batch.timesteps, batch.conditioning)
            target = denoiser.target(batch.latents, batch.noise, batch.timesteps)
            error = (prediction.float() - target).square().flatten(1).mean(1)
            losses[start : start + len(part)] += error.double().numpy() / draws
    return [short(float(value), 5) for value in losses]
