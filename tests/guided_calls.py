"""How a family's plain pipeline is told what to draw: known here by its documentation, not by our adapters."""

from __future__ import annotations

import inspect
from typing import Any

import torch

__all__ = ["SEPARATE", "branches_of", "guidance", "network_of", "prediction_of"]

SEPARATE = ("FluxPipeline", "QwenImagePipeline", "Lumina2Pipeline", "Flux2KleinPipeline")
"""Pipelines that call the network with the prompt and then without it, not once for both."""


def guidance(pipe: Any, scale: float, prompts: int | None = None) -> dict[str, Any]:
    """Arguments that guide by ``scale``, where 1 is no guidance, and leave prompt and size alone.

    Args:
        prompts: how many there are in a list; None for one that is none.
    """
    names = inspect.signature(type(pipe).__call__).parameters
    found: dict[str, Any] = {name: False for name in ("use_resolution_binning", "clean_caption") if name in names}
    if "true_cfg_scale" in names and not pipe.transformer.config.guidance_embeds:
        return {**found, "true_cfg_scale": scale, "negative_prompt": "" if prompts is None else [""] * prompts}
    # Z-Image adds to the conditional prediction, so that 0 is no guidance.
    return {**found, "guidance_scale": scale - 1 if type(pipe).__name__ == "ZImagePipeline" else scale}


def network_of(pipe: Any) -> Any:
    """The denoising network."""
    return getattr(pipe, "unet", None) or pipe.transformer


def prediction_of(output: Any) -> torch.Tensor:
    """What the network predicted [rows, ...], detached: Z-Image's returns a list."""
    rows = output[0]
    return (torch.stack(list(rows)) if isinstance(rows, list) else rows).detach()


def branches_of(pipe: Any, outputs: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(with, without) the prompt at each guided step, of all outputs of the network in a row."""
    name = type(pipe).__name__
    if name in SEPARATE:
        return list(zip(outputs[::2], outputs[1::2], strict=True))
    halves = [output.chunk(2) for output in outputs]
    return [(one, two) if name == "ZImagePipeline" else (two, one) for one, two in halves]
