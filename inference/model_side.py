"""How large the pictures are that a model draws, as far as its folder says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

__all__ = ["model_side"]

LARGE_FAMILIES: Final = ("xl", "flux", "stable-diffusion-3", "sd3", "pixart")
"""Parts of names of models that were made for 1024 pixels."""


def model_side(model: str) -> int:
    """Pixels a side that ``model``, a folder or hub id, was made for; of one that is not on disk the usual."""
    for name in ("unet", "transformer"):
        file = Path(model).expanduser() / name / "config.json"
        if file.is_file():
            size = json.loads(file.read_text(encoding="utf-8")).get("sample_size") or 64
            return int(size) * _factor(Path(model).expanduser())
    return 1024 if any(part in model.lower() for part in LARGE_FAMILIES) else 512


def _factor(model: Path) -> int:
    """Pixels to a latent element, a side."""
    file = model / "vae" / "config.json"
    channels = json.loads(file.read_text(encoding="utf-8")).get("block_out_channels") if file.is_file() else None
    return 2 ** (len(channels) - 1) if channels else 8
