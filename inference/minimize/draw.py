"""Images of a minimised prompt, before and after, from the same noise."""

from __future__ import annotations

from torch import Tensor

from memsieve.filtering.denoisers.base import Conditioning
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.generate import sampling_scheduler
from memsieve.inference.guided import GuidedModel
from memsieve.inference.minimize.minimize import Minimized

__all__ = ["draw", "draw_from"]


def draw(model: GuidedModel, result: Minimized, settings: DetectSettings) -> tuple[Tensor, Tensor]:
    """The images [n, 3, H, W] in [-1, 1] of the prompt as it was and as minimised, from the same noise."""
    before = model.encode([result.prompt]).expand(len(result.latents)).to(dtype=model.dtype)
    return draw_from(model, result, before, settings), draw_from(model, result, result.cond, settings)


def draw_from(model: GuidedModel, result: Minimized, cond: Conditioning, settings: DetectSettings) -> Tensor:
    """The images [n, 3, H, W] in [-1, 1] of embeddings of n rows, from the noise of ``result``."""
    arguments = model.denoiser.call_arguments(cond, result.uncond, settings.guidance_scale, result.latents)
    own = model.pipe.scheduler
    model.pipe.scheduler = sampling_scheduler(model.pipe, model.scheduler_name)
    try:
        side = model.pixels(result.latents)
        output = model.pipe(
            **arguments, height=side, width=side, num_inference_steps=settings.schedule_steps, output_type="pt",
        )  # fmt: skip
    finally:
        model.pipe.scheduler = own
    images: Tensor = output.images.float().cpu().clamp(0, 1) * 2 - 1
    return images
