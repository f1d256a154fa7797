"""Stable Diffusion 3 and 3.5: a joint transformer trained by flow matching, two CLIP encoders and a T5."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from memsieve.filtering.denoisers.base import Call
from memsieve.filtering.denoisers.conditioning import Conditioning, TextPart
from memsieve.filtering.denoisers.latent import LatentDenoiser
from memsieve.filtering.denoisers.spaces import RectifiedFlow
from memsieve.filtering.denoisers.stable_diffusion import clip_ids

__all__ = ["StableDiffusion3Denoiser", "dynamic_shift", "evenly_from_noise"]

T5_TOKENS: Final = 256
"""What the pipeline gives T5 (``max_sequence_length``); diffusers' example trains with fewer."""


class StableDiffusion3Denoiser(LatentDenoiser):
    """As diffusers' train_dreambooth_sd3.py with ``--precondition_outputs 0``: the loss is that of v = eps - x_0.

    Unconditional is the empty caption. A pipeline without its T5 (``text_encoder_3`` null) works as it does in
    diffusers: zeros stand in its place.
    """

    pipeline_class = StableDiffusion3Pipeline
    parts = {
        "transformer": SD3Transformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
        "tokenizer_3": T5TokenizerFast,
    }
    optional = ("text_encoder_3", "tokenizer_3")
    space_class = RectifiedFlow
    normalised = "shift"
    patch = 2
    lora_targets = (
        *("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0"),
        *("attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out"),
    )
    text_encoder: Any
    text_encoder_2: Any
    text_encoder_3: Any
    tokenizer: Any
    tokenizer_2: Any
    tokenizer_3: Any

    def encode(self, captions: list[str]) -> Conditioning:
        """CLIP features side by side, padded with zeros to T5's width, then T5's positions: [B, 77 + 256, D]."""
        states, pooled = [], []
        for tokenizer, encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
            # Both are cut to the first tokenizer's length, as in the pipeline.
            ids = clip_ids(tokenizer, captions, self.tokenizer.model_max_length).to(self.device)
            output = encoder(ids, output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled.append(output[0])
        clip, width = torch.cat(states, dim=-1), int(self.config.joint_attention_dim)
        clip = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
        return Conditioning(torch.cat([clip, self._t5(captions, clip)], dim=1), torch.cat(pooled, dim=-1))

    def _t5(self, captions: list[str], like: torch.Tensor) -> torch.Tensor:
        if self.text_encoder_3 is None:
            return like.new_zeros(len(captions), T5_TOKENS, like.shape[-1])
        ids = clip_ids(self.tokenizer_3, captions, T5_TOKENS).to(self.device)
        states: torch.Tensor = self.text_encoder_3(ids)[0]
        return states.to(like.dtype)

    def text_layout(self) -> list[TextPart]:
        """Two CLIP encoders at the same positions, each with its own features, then T5."""
        length = int(self.tokenizer.model_max_length)
        first, second = (int(encoder.config.hidden_size) for encoder in (self.text_encoder, self.text_encoder_2))
        parts = [
            TextPart("text_encoder", self.tokenizer, 0, length, (0, first)),
            TextPart("text_encoder_2", self.tokenizer_2, 0, length, (first, first + second)),
        ]
        if self.text_encoder_3 is not None:
            parts.append(TextPart("text_encoder_3", self.tokenizer_3, length, T5_TOKENS))
        return parts

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The transformer's prediction, [B, C, h, w]."""
        prediction: torch.Tensor = model(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=conditioning.encoder_hidden_states,
            pooled_projections=conditioning.pooled,
            return_dict=False,
        )[0]
        return prediction

    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the transformer was called with."""
        conditioning = Conditioning(kwargs["encoder_hidden_states"], kwargs["pooled_projections"])
        return kwargs["hidden_states"], torch.as_tensor(kwargs["timestep"]), conditioning

    def set_timesteps(self, scheduler: Any, steps: int, resolution: int, device: torch.device) -> None:
        """As the pipeline: where the scheduler shifts by resolution, it is told the length of the sequence."""
        if not scheduler.config.get("use_dynamic_shifting"):
            scheduler.set_timesteps(steps, device=device)
            return
        tokens = (resolution // self.vae_factor // int(self.config.patch_size)) ** 2
        scheduler.set_timesteps(steps, device=device, mu=dynamic_shift(scheduler, tokens))


def evenly_from_noise(scheduler: Any, steps: int, tokens: int, device: torch.device) -> None:
    """Levels evenly spaced from s = 1, then shifted by the length of the image's sequence where the scheduler does."""
    sigmas = np.linspace(1.0, 1.0 / steps, steps)
    scheduler.set_timesteps(sigmas=sigmas, device=device, mu=dynamic_shift(scheduler, tokens))


def dynamic_shift(scheduler: Any, tokens: int) -> float:
    """mu of a resolution-dependent shift: a straight line in the length of the image's sequence (Flux, SD3.5)."""
    config = scheduler.config
    least, most = int(config.get("base_image_seq_len", 256)), int(config.get("max_image_seq_len", 4096))
    low, high = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    return low + (high - low) * (tokens - least) / (most - least)
