"""Bases of three kinds for scripts/bench timesteps: the same VAE and text encoder, a network that predicts the noise,
the velocity, or the flow, trained from nothing on pairs without repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from transformers import CLIPTextModelWithProjection

from benchmarks.common import CONFIGS, MODEL
from memsieve.filtering.settings import load_settings
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up

__all__ = ["FAMILIES", "trained_base", "untrained"]

FAMILIES: Final = ("epsilon", "v_prediction", "flow")
WIDTH: Final = 96
"""Of the flow network and of the text encoder's states."""


def untrained(family: str) -> Any:
    """A pipeline of ``assets/tiny-sd``'s frozen parts and a network with random weights (a fixed seed).

    Args:
        family: of ``FAMILIES``; ``flow`` is Stable Diffusion 3's, without T5.
    """
    torch.manual_seed(0)
    known = StableDiffusionPipeline.from_pretrained(MODEL, use_safetensors=True, safety_checker=None)
    if family == "flow":
        return _flow(known)
    scheduler = DDIMScheduler.from_config(known.scheduler.config, prediction_type=family)
    unet = type(known.unet).from_config(known.unet.config)
    return type(known)(**{**known.components, "unet": unet, "scheduler": scheduler}, requires_safety_checker=False)


def _flow(known: Any) -> Any:
    vae = AutoencoderKL.from_config({**known.vae.config, "shift_factor": 0.0})
    vae.load_state_dict(known.vae.state_dict())
    text = CLIPTextModelWithProjection.from_pretrained(MODEL / "text_encoder", use_safetensors=True)
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=4, attention_head_dim=16,
        num_attention_heads=WIDTH // 16, joint_attention_dim=2 * WIDTH, caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * WIDTH, pos_embed_max_size=16, qk_norm="rms_norm",
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        vae=vae, transformer=transformer, text_encoder=text, tokenizer=known.tokenizer, text_encoder_2=text,
        tokenizer_2=known.tokenizer, text_encoder_3=None, tokenizer_3=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def trained_base(family: str, data: Path, work: Path, steps: int) -> Path:
    """The family's pipeline after ``steps`` of unfiltered training on the rows of ``data``; goes on where it was
    stopped."""
    start, run = work / "untrained", work / "base"
    if (run / "pipeline").is_dir():
        return run / "pipeline"
    if not (start / "model_index.json").is_file():
        untrained(family).save_pretrained(start)
    settings = [
        f"output={run}", f"model.path={start}", f"data.path={data / 'train'}",
        f"data.held_out_path={data / 'held_out'}",
        f"train.steps={steps}", "train.batch_size=32", "train.threads=1", "filter.enabled=false", "validation.every=0",
        "validation.held_out_pairs=0", "checkpoint.every=500",
    ]  # fmt: skip
    fit(set_up(load_settings(RunConfig, CONFIGS / "openmoji.yaml", settings)))
    return run / "pipeline"
