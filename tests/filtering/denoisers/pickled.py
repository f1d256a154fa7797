"""Weights as older libraries saved them, and whether two pipelines have the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

PARTS = ("unet", "vae", "text_encoder")


def only_bin(folder: Path, part: str, pipe: Any) -> None:
    """Pickled weights in place of safetensors, as diffusers and transformers once saved them."""
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
    name = "pytorch_model.bin" if part in ("text_encoder", "safety_checker") else "diffusion_pytorch_model.bin"
    torch.save(getattr(pipe, part).state_dict(), folder / part / name)


def same_weights(one: Any, two: Any, parts: tuple[str, ...] = PARTS) -> bool:
    """Whether the parts of two pipelines hold the same values."""
    return all(
        torch.equal(value, getattr(two, part).state_dict()[name])
        for part in parts
        for name, value in getattr(one, part).state_dict().items()
    )
