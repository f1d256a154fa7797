"""A tiny Stable Diffusion or SDXL pipeline as one file, in the names that ComfyUI and A1111 know.

The way back from what diffusers converts; names as in diffusers' scripts/convert_diffusers_to_original_sdxl.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

State = dict[str, torch.Tensor]

_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

_OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def save_ldm(pipe: Any, file: Path, **more: torch.Tensor) -> Path:
    """Write ``pipe`` as one file, and the tensors of ``more`` beside."""
    state = {f"model.diffusion_model.{name}": value for name, value in unet_state(pipe.unet).items()}
    state |= {f"first_stage_model.{name}": value for name, value in vae_state(pipe.vae).items()}
    if hasattr(pipe, "text_encoder_2"):
        state |= {f"conditioner.embedders.0.transformer.{n}": v for n, v in clip_state(pipe.text_encoder).items()}
        state |= {f"conditioner.embedders.1.model.{n}": v for n, v in open_clip_state(pipe.text_encoder_2).items()}
    else:
        state |= {f"cond_stage_model.transformer.{n}": v for n, v in clip_state(pipe.text_encoder).items()}
    save_file({name: value.clone().contiguous() for name, value in (state | more).items()}, file)
    return file


def unet_state(unet: Any) -> State:
    layers = int(unet.config.layers_per_block)
    return {_unet_name(name, layers): value for name, value in unet.state_dict().items()}


def _unet_name(name: str, layers: int) -> str:
    for ours, theirs in _ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    name = re.sub(r"mid_block\.resnets\.([01])", lambda m: f"middle_block.{2 * int(m[1])}", name)
    name = name.replace("mid_block.attentions.0", "middle_block.1")
    for side, at, more in (("down", "input_blocks", 1), ("up", "output_blocks", 0)):
        kinds = (("resnets", 0), ("attentions", 1))
        for kind, slot in kinds:
            name = re.sub(
                rf"{side}_blocks\.(\d+)\.{kind}\.(\d+)",
                lambda m, at=at, slot=slot, more=more: f"{at}.{(layers + 1) * int(m[1]) + int(m[2]) + more}.{slot}",
                name,
            )
    name = re.sub(
        r"down_blocks\.(\d+)\.downsamplers\.0\.conv",
        lambda m: f"input_blocks.{(layers + 1) * (int(m[1]) + 1)}.0.op",
        name,
    )
    # The tiny networks go up from a block with attention.
    name = re.sub(
        r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"output_blocks.{(layers + 1) * int(m[1]) + layers}.2", name
    )
    return _renamed(name, _RESNET) if ".transformer_blocks." not in name else name


def vae_state(vae: Any) -> State:
    levels = len(vae.config.block_out_channels)
    found = {}
    for name, value in vae.state_dict().items():
        new = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets", r"encoder.down.\1.block", name)
        new = re.sub(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", new)
        up = r"decoder\.up_blocks\.(\d+)\."
        new = re.sub(rf"{up}resnets", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.block", new)
        new = re.sub(rf"{up}upsamplers\.0", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.([01])", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        new = new.replace("conv_shortcut", "nin_shortcut")
        if ".attn_1." in new:
            new = _renamed(new, _VAE_ATTENTION)
            value = value[:, :, None, None] if value.ndim == 2 else value  # a convolution there
        found[new] = value
    return found


def clip_state(encoder: Any) -> State:
    """transformers keeps the tower under ``text_model`` where there is a projection, and in old versions always."""
    state = encoder.state_dict()
    plain = not any(name.startswith("text_model.") for name in state)
    return {f"text_model.{name}" if plain else name: value for name, value in state.items()}


def open_clip_state(encoder: Any) -> State:
    """OpenCLIP's names: query, key and value in one tensor, the projection the other way round."""
    ours = clip_state(encoder)
    tower = "text_model."
    state = {
        "positional_embedding": ours[f"{tower}embeddings.position_embedding.weight"],
        "token_embedding.weight": ours[f"{tower}embeddings.token_embedding.weight"],
        "ln_final.weight": ours[f"{tower}final_layer_norm.weight"],
        "ln_final.bias": ours[f"{tower}final_layer_norm.bias"],
        "text_projection": ours["text_projection.weight"].T,
    }
    for number in range(encoder.config.num_hidden_layers):
        old, new = f"{tower}encoder.layers.{number}", f"transformer.resblocks.{number}"
        for end in ("weight", "bias"):
            parts = [ours[f"{old}.self_attn.{part}_proj.{end}"] for part in "qkv"]
            state[f"{new}.attn.in_proj_{end}"] = torch.cat(parts)
            for mine, theirs in _OPEN_CLIP.items():
                state[f"{new}.{theirs}.{end}"] = ours[f"{old}.{mine}.{end}"]
    return state


def _renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        name = re.sub(rf"(?<=\.){re.escape(ours)}(?=\.)", theirs, name)
    return name
