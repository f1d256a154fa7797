"""Pipelines that have gone a little way from the one they were made of, and that one."""

from __future__ import annotations

import copy
from typing import Any

import torch

from tests.tiny_models import tiny_family

__all__ = ["moved", "tuned_family"]


def moved(pipe: Any, part: str = "network", by: float = 0.05, seed: int = 3) -> Any:
    """A copy of ``pipe`` whose network, or another ``part``, was moved by normal values."""
    found = copy.deepcopy(pipe)
    module = (getattr(found, "unet", None) or found.transformer) if part == "network" else getattr(found, part)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return found


def tuned_family(name: str) -> tuple[Any, Any]:
    """A tiny pipeline of a family, and the one it was made of."""
    base = tiny_family(name)
    return moved(base), base
