"""From the VAE's latents to those that a network is trained on, and back, as a family's pipeline does it."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

__all__ = ["Normalisation", "denormalised", "normalised"]

Normalisation = Literal["scale", "shift", "mean_std"]
"""By the VAE's ``scaling_factor`` alone; after its ``shift_factor`` was taken off; or, where its config has both
``latents_mean`` and ``latents_std``, by those too."""


def normalised(latents: Tensor, config: Any, how: Normalisation) -> Tensor:
    """``latents`` [B, C, h, w] as the network sees them; ``config`` is the VAE's.

    What the config holds and the pipeline does not undo is left alone: the pictures would come out shifted.
    """
    if how == "shift" and config.get("shift_factor") is not None:
        latents = latents - config.shift_factor
    means, stds = config.get("latents_mean"), config.get("latents_std")
    scale = config.get("scaling_factor", 1.0)  # Qwen-Image's VAE has none
    if how == "mean_std" and means is not None and stds is not None:
        middle, spread = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (means, stds))
        return (latents - middle) * scale / spread
    scaled: Tensor = latents * scale
    return scaled


def denormalised(latents: Tensor, config: Any, how: Normalisation) -> Tensor:
    """``latents`` [B, C, h, w] of the network as the VAE's; ``config`` is the VAE's."""
    scale = config.get("scaling_factor", 1.0)
    means, stds = config.get("latents_mean"), config.get("latents_std")
    if how == "mean_std" and means is not None and stds is not None:
        middle, spread = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (means, stds))
        return latents * spread / scale + middle
    scaled: Tensor = latents / scale
    if how == "shift" and config.get("shift_factor") is not None:
        scaled = scaled + config.shift_factor
    return scaled
