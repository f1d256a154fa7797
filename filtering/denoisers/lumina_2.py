"""Lumina 2: one transformer over text and picture, trained by flow matching, with a Gemma 2 that is told its task."""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers import AutoencoderKL, Lumina2Pipeline, Lumina2Transformer2DModel
from transformers import Gemma2Model, GemmaTokenizerFast

from memsieve.filtering.denoisers.base import Call
from memsieve.filtering.denoisers.conditioning import Conditioning, TextPart
from memsieve.filtering.denoisers.latent import LatentDenoiser
from memsieve.filtering.denoisers.spaces import RectifiedFlow
from memsieve.filtering.denoisers.stable_diffusion_3 import evenly_from_noise

__all__ = ["Lumina2Denoiser"]

TOKENS: Final = 256
"""What the pipeline gives Gemma (``max_sequence_length``)."""
BEFORE: Final = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start>"
)
"""The pipeline's system prompt."""


class Lumina2Denoiser(LatentDenoiser):
    """As diffusers' train_dreambooth_lora_lumina2.py, its noise levels from the pipeline's end.

    The network is told 1 - s in the place of s and gives x_0 - eps, which is turned round in here; diffusers' example
    turns the path round instead, and so draws t with the shift at the other end. Unconditional is the empty prompt
    without the system prompt. The pipeline gives the guided prediction the conditional one's length, row by row of the
    latent: ``guided``.
    """

    pipeline_class = Lumina2Pipeline
    parts = {
        "transformer": Lumina2Transformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": Gemma2Model,
        "tokenizer": GemmaTokenizerFast,
    }
    mask_names = ("prompt_attention_mask", "negative_prompt_attention_mask")
    space_class = RectifiedFlow
    normalised = "shift"
    patch = 2
    separate_branches = True
    text_encoder: Any
    tokenizer: Any

    def encode(self, captions: list[str]) -> Conditioning:
        """Gemma's states before the last layer [B, 256, D], and its mask."""
        return self._states([f"{BEFORE} {caption}" for caption in captions])

    def _without_prompt(self) -> Conditioning:
        return self._states([""])

    def _states(self, texts: list[str]) -> Conditioning:
        tokens = self.tokenizer(
            texts, padding="max_length", padding_side="right", max_length=TOKENS, truncation=True, return_tensors="pt"
        ).to(self.device)
        output = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True)
        return Conditioning(output.hidden_states[-2], attention_mask=tokens.attention_mask)

    def text_layout(self) -> list[TextPart]:
        """One encoder; the system prompt stands before the prompt."""
        return [
            TextPart("text_encoder", self.tokenizer, 0, TOKENS, prepared=lambda prompt: f" {prompt}", before=BEFORE)
        ]

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The velocity eps - x_0 [B, C, h, w]."""
        prediction: torch.Tensor = model(
            hidden_states=noisy,
            timestep=1.0 - timesteps / self.num_train_timesteps,
            encoder_hidden_states=conditioning.encoder_hidden_states,
            encoder_attention_mask=conditioning.attention_mask,
            return_dict=False,
        )[0]
        return -prediction

    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the transformer was called with."""
        timesteps = self.num_train_timesteps * (1.0 - torch.as_tensor(kwargs["timestep"]))
        states = Conditioning(kwargs["encoder_hidden_states"], attention_mask=kwargs["encoder_attention_mask"])
        return kwargs["hidden_states"], timesteps, states

    def set_timesteps(self, scheduler: Any, steps: int, resolution: int, device: torch.device) -> None:
        """As the pipeline, which takes the number of channels for the length of the sequence."""
        evenly_from_noise(scheduler, steps, self.latent_channels, device)

    def guided(self, cond: torch.Tensor, uncond: torch.Tensor, guidance_scale: float) -> torch.Tensor:
        """Guided, then scaled row by row to the length of the conditional prediction."""
        combined = super().guided(cond, uncond, guidance_scale)
        length = torch.linalg.vector_norm(cond, dim=-1, keepdim=True)
        return combined * (length / torch.linalg.vector_norm(combined, dim=-1, keepdim=True))
