"""The ways that are compared: from a prompt's embeddings and noise to images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.mitigation.mixes import Levels, base_first, by_drift, by_region, mixed, of_base
from memsieve.filtering.denoisers.base import Conditioning
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.drawn import draw_along
from memsieve.inference.generate import sampling_scheduler
from memsieve.inference.guard.guard import MemorizationGuard
from memsieve.inference.guided import Combine, GuidedModel
from memsieve.inference.minimize.embeddings import minimize_embeddings
from memsieve.inference.minimize.settings import MinimizeSettings
from memsieve.inference.step import Against
from memsieve.train.visits import random_tokens

__all__ = ["FIRST", "NONE", "WAYS", "Asked", "Start"]

NONE: Final = "none"
FIRST: Final = (2, 4, 6, 10)
"""Of twenty steps; of other numbers as large a share."""


@dataclass(frozen=True, slots=True)
class Start:
    """What an image begins with, n rows each: its noise, what the model is told, and what the base is.

    ``caption`` is None where the embeddings are no caption's.
    """

    noise: Tensor
    cond: Conditioning
    uncond: Conditioning
    against: Against
    caption: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """How images are drawn, and the ordinary prompts' levels that ways go by: ``targets`` by measure."""

    settings: DetectSettings
    levels: Levels
    targets: dict[str, float]

    @property
    def steps(self) -> int:
        return self.settings.schedule_steps


Way = Callable[[GuidedModel, Start, Asked], Tensor | None]
"""Images [n, 3, H, W] in [-1, 1]; None where the way has nothing to work on."""


def _along(model: GuidedModel, start: Start, asked: Asked, combine: Combine | None) -> Tensor:
    return draw_along(
        model, start.noise, (start.cond, start.uncond), steps=asked.steps,
        guidance_scale=asked.settings.guidance_scale, against=start.against if combine is not None else None,
        combine=combine,
    )  # fmt: skip


def _minimise(measure: str, model: GuidedModel, start: Start, asked: Asked) -> Tensor:
    """As ``minimize`` does it by default; of the anchored magnitude down to the base's own for each image."""
    count = len(start.cond)
    first = next(
        model.trajectory(
            start.noise, start.cond, start.uncond, steps=1, schedule_steps=asked.steps,
            guidance_scale=asked.settings.guidance_scale, against=start.against,
        )
    )  # fmt: skip
    target = torch.full((count,), asked.targets.get(measure, 0.0), device=model.device)
    if measure == "anchored_magnitude":
        own = first.other("drift") - first.other("anchored_magnitude")
        target = model.norm(own, first.timestep, measure)
    compared = model.compared(first, start.cond, start.uncond, measure)
    fitted = minimize_embeddings(model, compared, target, MinimizeSettings())
    return _along(model, replace(start, cond=fitted.cond.to(dtype=torch.float32)), asked, None)


def _delay(model: GuidedModel, start: Start, asked: Asked) -> Tensor:
    """The guard's own action, on every image."""
    pipe, denoiser = model.pipe, model.denoiser
    kind = next(model.model.parameters()).dtype
    cond, uncond = (part.to(dtype=kind) for part in (start.cond, start.uncond))
    call: dict[str, Any] = denoiser.call_arguments(cond, uncond, asked.settings.guidance_scale, start.noise.to(kind))
    side, own = model.pixels(start.noise), pipe.scheduler
    pipe.scheduler = sampling_scheduler(pipe, model.scheduler_name)
    try:
        guard = MemorizationGuard(pipe, "delay", threshold=1e-9, progress=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the empty prompt's embeddings are a negative prompt to it
            drawn = guard(**call, height=side, width=side, num_inference_steps=asked.steps, output_type="pt").images
    finally:
        pipe.scheduler = own
    images: Tensor = drawn.float().cpu().clamp(0, 1) * 2 - 1
    return images


def _tokens(count: int, model: GuidedModel, start: Start, asked: Asked) -> Tensor | None:
    """Random tokens of the vocabulary at random places, others for each image."""
    if start.caption is None:
        return None
    tokenizer = model.denoiser.text_layout()[0].tokenizer
    rng = np.random.default_rng(asked.settings.seed)
    texts = [random_tokens(start.caption, tokenizer, count, rng) for _ in range(len(start.cond))]
    return _along(model, replace(start, cond=model.encode(texts)), asked, None)


def _mixing(make: Callable[[Asked, float], Combine | None]) -> Way:
    """A way that follows another prediction; ``make`` is told the guidance scale."""
    return lambda model, start, asked: _along(model, start, asked, make(asked, asked.settings.guidance_scale))


def _base_first(of_twenty: int) -> Way:
    return _mixing(lambda asked, scale: base_first(max(1, round(of_twenty * asked.steps / 20)), scale))


def _mixed(share: float) -> Way:
    return _mixing(lambda asked, scale: mixed(share, scale))


WAYS: Final[dict[str, Way]] = {
    NONE: _mixing(lambda asked, scale: None),
    "the base alone": _mixing(lambda asked, scale: of_base(scale)),
    "minimise, magnitude": partial(_minimise, "magnitude"),
    "minimise, drift": partial(_minimise, "drift"),
    "minimise, anchored": partial(_minimise, "anchored_magnitude"),
    "delay": _delay,
    "1 random token": partial(_tokens, 1),
    "4 random tokens": partial(_tokens, 4),
    **{f"base first, {count} of 20": _base_first(count) for count in FIRST},
    "mix, 1/2": _mixed(0.5),
    "mix, 1/4": _mixed(0.25),
    "mix, by drift": _mixing(lambda asked, scale: by_drift(asked.levels, scale)),
    "mix, by region": _mixing(lambda asked, scale: by_region(asked.levels, scale)),
}
"""By name; the first is what the others are compared with."""
