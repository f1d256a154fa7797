"""What gradients through a finished model need: weights without a graph of their own, made outside inference mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from memsieve.filtering.denoisers.attention import without_cudnn

__all__ = ["check_differentiable", "frozen"]


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
