"""Sana: a linear-attention transformer on deeply compressed latents, trained by flow matching, with a Gemma 2."""

from __future__ import annotations

import inspect
from typing import Any, Final

import torch
from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel
from transformers import Gemma2Model, GemmaTokenizerFast

from memsieve.filtering.denoisers.base import Call
from memsieve.filtering.denoisers.conditioning import Conditioning, TextPart
from memsieve.filtering.denoisers.latent import LatentDenoiser
from memsieve.filtering.denoisers.spaces import RectifiedFlow
from memsieve.filtering.denoisers.supported import check_sides

__all__ = ["SanaDenoiser"]

TOKENS: Final = 300
"""Positions that the pipeline keeps of a prompt (``max_sequence_length``)."""
PIXELS: Final = 32
"""Sides of pictures must be multiples of it, whatever the VAE: the pipeline insists."""


class SanaDenoiser(LatentDenoiser):
    """As diffusers' train_dreambooth_lora_sana.py, with the pipeline's shift of noise levels.

    A prompt stands behind the pipeline's instruction, which is cut off again; unconditional is the empty prompt without
    it. Captions are lower-cased as in the pipeline. The pipeline samples by DPM-Solver, whose config calls the shift
    ``flow_shift``; diffusers' example reads that config as another scheduler's, and so draws t without the shift.
    """

    pipeline_class = SanaPipeline
    parts = {
        "transformer": SanaTransformer2DModel,
        "vae": AutoencoderDC,
        "text_encoder": Gemma2Model,
        "tokenizer": GemmaTokenizerFast,
    }
    mask_names = ("prompt_attention_mask", "negative_prompt_attention_mask")
    space_class = RectifiedFlow
    lora_targets = ("to_k", "to_q", "to_v")
    text_encoder: Any
    tokenizer: Any

    def _noised_as(self, scheduler: dict[str, Any]) -> dict[str, Any]:
        if not scheduler.get("use_flow_sigmas"):
            return scheduler
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": scheduler.get("num_train_timesteps", 1000),
            "shift": scheduler.get("flow_shift") or 1.0,
        }

    def _settle(self, scheduler: dict[str, Any], prediction_type: str | None, what: str, option: str) -> None:
        super()._settle(scheduler, prediction_type, what, option)
        self.noise_scheduler = self._own_scheduler or self.noise_scheduler

    @property
    def vae_factor(self) -> int:
        """Pixels a side of one latent."""
        return int(2 ** (len(self.vae.config.encoder_block_out_channels) - 1))

    def latent_shape(self, height: int, width: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of one latent of ``height`` x ``width`` pixels, square without ``width``."""
        check_sides(height, width, PIXELS, "Sana's pipeline")
        return super().latent_shape(height, width)

    @torch.no_grad()
    def posterior(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the VAE gives, and no deviation: it has none."""
        latents = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent
        return latents, torch.zeros_like(latents)

    def encode(self, captions: list[str]) -> Conditioning:
        """Gemma's states [B, 300, D] and its mask: the first position, and those from the prompt on."""
        instruction = _instruction()
        kept = [0, *range(-TOKENS + 1, 0)]
        length = len(self.tokenizer.encode(instruction)) + TOKENS - 2
        found = self._states([instruction + _prepared(caption) for caption in captions], length)
        return found.map(lambda tensor: tensor[:, kept])

    def _without_prompt(self) -> Conditioning:
        return self._states([""], TOKENS)

    def _states(self, texts: list[str], length: int) -> Conditioning:
        tokens = self.tokenizer(
            texts, padding="max_length", padding_side="right", max_length=length, truncation=True, return_tensors="pt"
        ).to(self.device)
        states = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return Conditioning(states, attention_mask=tokens.attention_mask)

    def text_layout(self) -> list[TextPart]:
        """One encoder; the instruction's last token is one with the prompt's first space."""
        return [TextPart("text_encoder", self.tokenizer, 0, TOKENS, prepared=lambda prompt: " " + _prepared(prompt))]

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The transformer's prediction, [B, C, h, w]."""
        prediction: torch.Tensor = model(
            noisy,
            encoder_hidden_states=conditioning.encoder_hidden_states,
            encoder_attention_mask=conditioning.attention_mask,
            timestep=timesteps * self.config.timestep_scale,
            return_dict=False,
        )[0]
        return prediction[:, : noisy.shape[1]]

    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the transformer was called with."""
        given = {**dict(zip(("hidden_states",), args, strict=False)), **kwargs}
        conditioning = Conditioning(given["encoder_hidden_states"], attention_mask=given["encoder_attention_mask"])
        timesteps = torch.as_tensor(given["timestep"]) / self.config.timestep_scale
        return given["hidden_states"], timesteps, conditioning

    def sampler(self) -> Any:
        """The pipeline's own scheduler, anew: deterministic too."""
        return type(self.noise_scheduler).from_config(self.noise_scheduler.config)

    def _call_options(self, latents: torch.Tensor | None) -> dict[str, Any]:
        """As PixArt's pipeline."""
        return {"use_resolution_binning": False, "negative_prompt": None}


def _prepared(prompt: str) -> str:
    return prompt.lower().strip()


def _instruction() -> str:
    """What the pipeline puts before a prompt by default."""
    return "\n".join(inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default)
