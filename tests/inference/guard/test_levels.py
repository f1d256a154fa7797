"""Ordinary prompts are measured as the call's own are."""

from __future__ import annotations

import warnings

import pytest
import torch
from diffusers import DDIMScheduler

from tests.inference.guard.calls import CALL, SIZES, first_step, guard, guidance, seeded
from tests.tiny_models import tiny_family


def test_ordinary_prompts_are_told_the_calls_sizes() -> None:
    """The threshold is their magnitude at the sizes of the call; another call's are measured anew."""
    pipe = tiny_family("sdxl")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    with torch.no_grad():  # a random network hardly listens to them
        pipe.unet.add_embedding.linear_1.weight.mul_(8)
    noise = torch.randn(1, 4, 8, 8, generator=seeded())
    guarded = guard(pipe, threshold=None, ordinary=["a"], false_positive_rate=0.5)
    levels = []
    for sizes in ({}, SIZES, {"original_size": (900, 24)}):
        options = {**CALL, **guidance(pipe), **sizes, "num_inference_steps": 1}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            guarded("b", **options)
        expected = first_step(pipe, lambda: pipe("a", latents=noise, **options), 1)  # noqa: B023
        assert guarded.report.threshold == pytest.approx(expected[0], rel=1e-4)
        levels.append(guarded.report.threshold)
    assert max(levels) > 1.01 * min(levels), "the sizes matter"
