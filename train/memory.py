"""What a run's weights, gradients and optimizer take in memory, without activations."""

from __future__ import annotations

from typing import Any, Final

import torch

from memsieve.filtering.denoisers.lora import AdapterOff, trained_parameters
from memsieve.train.session import Session

__all__ = ["memory_of"]

_STATE: Final = {"adamw": 8, "adamw_8bit": 2, "prodigy": 16, "sgd": 0}
"""Bytes that an optimizer keeps for a number that is trained: Adam's two moments, and where Prodigy began and went."""


def memory_of(session: Session) -> dict[str, int]:
    """Bytes on a rank by what they are for. Under ZeRO those of one process: what is shared out is less on each.

    Activations are not in it: they grow with the batch, the resolution and what is checkpointed.
    """
    config, denoiser = session.config, session.denoiser
    network = session.accelerator.unwrap_model(session.model)
    trained = trained_parameters(network)
    numbers = sum(parameter.numel() for parameter in trained)
    found = {
        "network": held_bytes(network),
        "gradients": sum(parameter.nbytes for parameter in trained),
        "optimizer": numbers * _STATE[config.optimizer.name],
    }
    if session.ema is not None:
        found["average"] = 4 * numbers
    reference = session.scorer.reference if session.scorer is not None else None
    if reference is not None and not isinstance(reference, AdapterOff):
        found["reference"] = held_bytes(reference)
    if config.train.cache is None:  # else the encoders wait in host memory
        for name, part in denoiser.pipeline().components.items():
            if isinstance(part, torch.nn.Module) and part is not denoiser.model:
                kind = "text encoders" if name.startswith("text_encoder") else name
                found[kind] = found.get(kind, 0) + held_bytes(part)
    return found


def held_bytes(module: torch.nn.Module) -> int:
    """Bytes of a part's parameters and buffers, and of the scales beside weights in fewer bits."""
    total = sum(value.nbytes for value in [*module.parameters(), *module.buffers()])
    for parameter in module.parameters():
        total += sum(value.nbytes for value in _scales(parameter))
    return total


def _scales(parameter: Any) -> list[torch.Tensor]:
    """Of bitsandbytes' Params4bit and Int8Params."""
    state = getattr(parameter, "quant_state", None)
    found = (getattr(state, "absmax", None), getattr(parameter, "SCB", None))
    return [value for value in found if isinstance(value, torch.Tensor)]
