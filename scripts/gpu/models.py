"""The tiny pipelines of the tests, and the same with networks and VAEs large enough to keep a GPU busy."""

from __future__ import annotations

from typing import Any, Final

import torch

from tests.tiny_models import TINY_FAMILIES, tiny_family

__all__ = ["FAMILIES", "RESOLUTION", "build"]

FAMILIES: Final = TINY_FAMILIES
RESOLUTION: Final = {"tiny": 16, "small": 256}

_UNET: Final[dict[str, Any]] = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
_SIZES: Final[dict[str, dict[str, Any]]] = {
    "sd": _UNET,
    "sdxl": {**_UNET, "transformer_layers_per_block": (1, 1, 2)},
    "sd3": {
        "sample_size": 32, "in_channels": 16, "out_channels": 16, "num_layers": 8, "attention_head_dim": 64,
        "num_attention_heads": 10, "caption_projection_dim": 640, "pos_embed_max_size": 64,
    },
    "flux": {
        "in_channels": 64, "num_layers": 3, "num_single_layers": 6, "attention_head_dim": 64,
        "num_attention_heads": 10, "axes_dims_rope": (16, 24, 24),
    },
    "pixart": {
        "sample_size": 32, "num_layers": 12, "attention_head_dim": 64, "num_attention_heads": 10,
        "cross_attention_dim": 640,
    },
}  # fmt: skip
_SIZES["flux_guided"] = _SIZES["flux"]


def build(family: str, size: str) -> Any:
    """A random pipeline: ``tiny`` as in the tests, or ``small``: 256 pixels, the text encoders still tiny."""
    pipe = tiny_family(family)
    if size == "tiny":
        return pipe
    torch.manual_seed(0)
    name = "unet" if hasattr(pipe, "unet") else "transformer"
    tiny = getattr(pipe, name)
    network = type(tiny).from_config({**tiny.config, **_SIZES[family]})
    channels = 4 if name == "unet" or family == "pixart" else 16
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    wide = {"block_out_channels": [64, 128, 256, 256], "norm_num_groups": 32, "latent_channels": channels, **blocks}
    vae = type(pipe.vae).from_config({**pipe.vae.config, **wide})
    parts = {**pipe.components, name: network.eval(), "vae": vae.eval()}
    options = {"requires_safety_checker": False} if family == "sd" else {}
    made = type(pipe)(**parts, **options)
    made.set_progress_bar_config(disable=True)
    return made
