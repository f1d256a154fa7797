"""Images drawn along a trajectory of our own, where what the sampler follows is not what a pipeline would follow."""

from __future__ import annotations

import torch
from torch import Tensor

from memsieve.filtering.denoisers.base import Conditioning
from memsieve.inference.generate import image_seed
from memsieve.inference.guided import Combine, GuidedModel
from memsieve.inference.step import Against

__all__ = ["draw_along"]


def draw_along(
    model: GuidedModel,
    noise: Tensor,
    told: tuple[Conditioning, Conditioning | None],
    *,
    steps: int,
    guidance_scale: float = 1.0,
    against: Against | None = None,
    combine: Combine | None = None,
) -> Tensor:
    """Images [n, 3, H, W] in [-1, 1] on the CPU from ``noise`` [n, C, h, w]; without ``combine`` those of the pipeline.

    Args:
        told: conditional and unconditional conditioning, n rows each; the second may be None where ``combine`` needs
            none.
        against: what the base is asked at each step, for ``combine``.
        combine: what the sampler follows in place of the guided prediction.
    """
    # Samplers that add noise get the same for the same initial noise, whatever else is in the batch.
    generators = [torch.Generator("cpu").manual_seed(_seed_of(row)) for row in noise.cpu()]
    path = model.trajectory(
        noise, *told, steps=steps, schedule_steps=steps, guidance_scale=guidance_scale, generators=generators,
        against=against, combine=combine,
    )  # fmt: skip
    while True:
        try:
            next(path)
        except StopIteration as end:
            return model.denoiser.decode(end.value).cpu()


def _seed_of(noise: Tensor) -> int:
    """A seed by the values of one image's initial noise."""
    return image_seed(0, repr(float(noise.double().sum())), 0)
