"""Guarded calls of tiny pipelines, and their first step read by a hook of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.guard.guard import MemorizationGuard
from tests import guided_calls
from tests.guided_calls import SEPARATE, branches_of, network_of, prediction_of
from tests.tiny_models import GUIDED, side_of

MEASURED = GUIDED


__all__ = [
    "CALL",
    "MEASURED",
    "SETTINGS",
    "SIZES",
    "call_of",
    "first_step",
    "guard",
    "guidance",
    "network_of",
    "seeded",
    "some_slow",
]

CALL: dict[str, Any] = {"num_inference_steps": 5, "height": 16, "width": 16, "output_type": "latent"}


def call_of(name: str) -> dict[str, Any]:
    """``CALL`` at the size of a family's tiny pipeline."""
    return {**CALL, "height": side_of(name), "width": side_of(name)}


def guidance(pipe: Any, prompts: int | None = None) -> dict[str, Any]:
    """A call's guidance by 3, of so many prompts in a list."""
    return guided_calls.guidance(pipe, 3.0, prompts)


SETTINGS = DetectSettings(schedule_steps=4, guidance_scale=3.0, resolution=16)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def guard(pipe: Any, action: str = "warn", **options: Any) -> MemorizationGuard:
    return MemorizationGuard(pipe, action, **{"ordinary": ["a", "b"], "progress": False, "threshold": 1e9, **options})


def first_step(pipe: Any, run: Callable[[], Any], steps: int) -> list[float]:
    """||cond - uncond|| of each image at the first step of the last run of the pipeline, by a hook of its own."""
    outputs: list[torch.Tensor] = []
    handle = network_of(pipe).register_forward_hook(lambda module, args, output: outputs.append(prediction_of(output)))
    run()
    handle.remove()
    calls = steps * (2 if type(pipe).__name__ in SEPARATE else 1)
    cond, uncond = branches_of(pipe, outputs[-calls:])[0]
    delta = cond - uncond
    return (delta[:, :4] if delta.ndim == 4 else delta).flatten(1).norm(dim=1).tolist()


SIZES: dict[str, Any] = {
    "original_size": (900, 24), "crops_coords_top_left": (300, 8), "target_size": (700, 500),
    "negative_original_size": (4, 4), "negative_crops_coords_top_left": (90, 0), "negative_target_size": (30, 700),
}  # fmt: skip


def some_slow(cases: list[Any], fast: list[Any]) -> list[Any]:
    """All cases, those that are not ``fast`` marked as slow."""
    return [pytest.param(*case, marks=[] if case in fast else pytest.mark.slow) for case in cases]
