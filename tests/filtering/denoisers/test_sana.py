"""Sana: its sampler is another scheduler than the one that noise is drawn by."""

from __future__ import annotations

import pytest
import torch

from memsieve.filtering.denoisers.registry import denoiser_of
from tests.tiny_models import tiny_family


def test_sana_is_noised_by_the_shift_of_its_sampler_and_samples_by_it() -> None:
    pipe = tiny_family("sana")
    denoiser = denoiser_of(pipe)
    middle = denoiser.timesteps_at(torch.tensor([499]))
    assert float(middle) == pytest.approx(1000 * 3 * 0.5 / (1 + 2 * 0.5), rel=2e-3), "s' = 3 s / (1 + 2 s)"
    assert type(denoiser.sampler()) is type(denoiser.pipeline().scheduler) is type(pipe.scheduler)
    pipe.register_modules(scheduler=type(pipe.scheduler)())
    with pytest.raises(ValueError, match="comes with DPMSolverMultistepScheduler"):
        denoiser_of(pipe)
    with pytest.raises(ValueError, match=r"data\.resolution: 16 must be a multiple of 32 for Sana"):
        denoiser.latent_shape(16)
