"""Optimizers by name, each with what its engine or library asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memsieve.filtering.extras import install
from memsieve.filtering.settings import SettingsError
from memsieve.train.config import OptimizerConfig

__all__ = ["make_optimizer"]


def make_optimizer(
    settings: OptimizerConfig, parameters: Sequence[torch.nn.Parameter], precision: str = "no"
) -> torch.optim.Optimizer:
    """The optimizer over what is trained.

    Args:
        precision: the accelerator's mixed precision.

    Raises:
        SettingsError: the optimizer's package is not installed.
    """
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    adam = {**common, "betas": settings.betas, "eps": settings.eps}
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, **common)
    if settings.name == "adamw_8bit":
        return _of("bitsandbytes", "bnb", settings.name).optim.AdamW8bit(parameters, **adam)  # type: ignore[no-any-return]
    if settings.name == "prodigy":
        # As diffusers' examples set it.
        options = {"decouple": True, "use_bias_correction": True, "safeguard_warmup": True}
        return _of("prodigyopt", "prodigy", settings.name).Prodigy(parameters, **adam, **options)  # type: ignore[no-any-return]
    # The fused kernel takes the loss scaler's verdict inside, where accelerate does not see that a step was skipped.
    return torch.optim.AdamW(parameters, **adam, fused=precision != "fp16")


def _of(package: str, extra: str, name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise SettingsError(
            f"optimizer.name: {name} needs {package}, which is not installed: {install(extra)}, or use adamw"
        ) from error
