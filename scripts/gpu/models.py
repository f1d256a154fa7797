"""The tiny pipelines of the tests, and the same with networks and VAEs large enough to keep a GPU busy."""

from __future__ import annotations

from typing import Any, Final

import torch

from tests.tiny_models import TINY_FAMILIES, side_of, tiny_family

__all__ = ["FAMILIES", "RESOLUTION", "build", "resolution_of"]

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
    "sana": {
        "sample_size": 32, "in_channels": 16, "out_channels": 16, "num_layers": 10, "num_attention_heads": 20,
        "attention_head_dim": 32, "num_cross_attention_heads": 10, "cross_attention_head_dim": 64,
        "cross_attention_dim": 640,
    },
    "lumina_2": {
        "sample_size": 32, "in_channels": 16, "hidden_size": 768, "num_layers": 8, "num_attention_heads": 8,
        "num_kv_heads": 4, "axes_dim_rope": (32, 32, 32), "axes_lens": (300, 64, 64),
    },
    "qwen_image": {
        "in_channels": 64, "out_channels": 16, "num_layers": 6, "attention_head_dim": 64, "num_attention_heads": 10,
        "axes_dims_rope": (16, 24, 24),
    },
    "z_image": {
        "in_channels": 16, "dim": 768, "n_layers": 8, "n_refiner_layers": 1, "n_heads": 8, "n_kv_heads": 8,
        "axes_dims": [32, 32, 32], "axes_lens": [1024, 64, 64],
    },
    "flux_2": {
        "in_channels": 64, "num_layers": 3, "num_single_layers": 6, "attention_head_dim": 64, "num_attention_heads": 10,
        "axes_dims_rope": (16, 16, 16, 16),
    },
}  # fmt: skip
_SIZES["flux_guided"] = _SIZES["flux"]
_SIZES["flux_2_klein"] = _SIZES["flux_2"]


def build(family: str, size: str) -> Any:
    """A random pipeline: ``tiny`` as in the tests, or ``small``: 256 pixels, the text encoders still tiny."""
    pipe = tiny_family(family)
    if size == "tiny":
        return pipe
    torch.manual_seed(0)
    name = "unet" if hasattr(pipe, "unet") else "transformer"
    tiny = getattr(pipe, name)
    network = type(tiny).from_config({**tiny.config, **_SIZES[family]})
    vae = type(pipe.vae).from_config({**pipe.vae.config, **_vae_of(family, name)})
    parts = {**pipe.components, name: network.eval(), "vae": vae.eval()}
    options = {"requires_safety_checker": False} if family == "sd" else {}
    made = type(pipe)(**parts, **options)
    made.set_progress_bar_config(disable=True)
    return made


def _vae_of(family: str, network: str) -> dict[str, Any]:
    """A VAE of eight pixels a latent, in the words of the family's class."""
    channels, widths = 4 if network == "unet" or family == "pixart" else 16, [64, 128, 256, 256]
    if family == "qwen_image":
        return {
            "base_dim": 32, "z_dim": channels, "dim_mult": [1, 2, 4, 4], "temperal_downsample": [False, True, True],
            "latents_mean": [0.0] * channels, "latents_std": [1.0] * channels,
        }  # fmt: skip
    if family == "sana":
        layers, scales = (1,) * 4, ((),) * 4
        return {
            "latent_channels": channels, "encoder_block_out_channels": widths, "decoder_block_out_channels": widths,
            "encoder_layers_per_block": layers, "decoder_layers_per_block": layers, "encoder_qkv_multiscales": scales,
            "decoder_qkv_multiscales": scales,
        }  # fmt: skip
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    return {"block_out_channels": widths, "norm_num_groups": 32, "latent_channels": channels, **blocks}


def resolution_of(family: str, size: str) -> int:
    """Pixels a side of a family's images: some pipelines draw none as small as the others' tiny ones."""
    return max(RESOLUTION[size], side_of(family))
