"""Gradients through a finished model: what its weights must be for them, and those of what is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from memsieve.filtering.denoisers.attention import without_cudnn
from memsieve.inference.guided import GuidedModel
from memsieve.inference.step import Compared

__all__ = ["check_differentiable", "frozen", "measured_and_gradient"]


def check_differentiable(module: torch.nn.Module) -> None:
    """Refuse weights through which no gradient can be taken.

    Raises:
        ValueError: they were made under ``torch.inference_mode()``.
    """
    if any(parameter.is_inference() for parameter in module.parameters()):
        raise ValueError(
            "the model's weights were loaded under torch.inference_mode(), and no gradient can be taken through them: "
            "load the pipeline outside of it (calls may be inside)"
        )


@contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """Weights without gradients for a while: their graph would cost memory and be thrown away. Nor is cuDNN's attention
    in it, through which gradients can come out as NaN."""
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        with without_cudnn():
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@torch.inference_mode(False)
def measured_and_gradient(model: GuidedModel, compared: Compared, space: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The measure d of each image [B] float32, and d d_b / d cond_b for each image, float32, by the embedding's name.

    What the prediction is compared with is a constant: only the conditional branch is run, and differentiated. Image b
    depends on its own row of the conditioning alone, so the gradient of the sum holds each image's own, with neither a
    factor 1/B nor 1/sqrt(B).
    """
    check_differentiable(model.model)
    seen = compared.seen
    leaves = {name: value.detach().float().requires_grad_(True) for name, value in seen.cond.embeddings.items()}
    with torch.enable_grad(), frozen(model.model):
        predicted = model.predict_one(seen.model_input.detach(), seen.timestep, compared.at(leaves).seen.cond)
        value = model.norm(predicted - compared.other, seen.timestep, compared.measure, space)
        # A network may ignore an embedding (Flux's own example drops none); its gradient is zero then.
        grads = torch.autograd.grad(value.sum(), list(leaves.values()), materialize_grads=True)
    return value.detach(), dict(zip(leaves, grads, strict=True))
