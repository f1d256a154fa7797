"""Stable Diffusion 1.x and 2.x: a UNet2DConditionModel on VAE latents, one CLIP text encoder."""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from memsieve.filtering.denoisers.base import Call
from memsieve.filtering.denoisers.conditioning import Conditioning, TextPart
from memsieve.filtering.denoisers.latent import LatentDenoiser
from memsieve.filtering.denoisers.supported import check_unet

__all__ = ["UNET_ARGUMENTS", "StableDiffusionDenoiser", "clip_ids"]

UNET_ARGUMENTS: Final = ("sample", "timestep", "encoder_hidden_states")


class StableDiffusionDenoiser(LatentDenoiser):
    """As diffusers' train_text_to_image.py. Unconditional is the empty caption."""

    pipeline_class = StableDiffusionPipeline
    parts = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "tokenizer": CLIPTokenizer,
    }
    text_encoder: Any
    tokenizer: Any

    def encode(self, captions: list[str]) -> Conditioning:
        """encoder_hidden_states [B, L, D], padded to the tokenizer's full length."""
        ids = clip_ids(self.tokenizer, captions).to(self.device)
        return Conditioning(self.text_encoder(ids, return_dict=False)[0])

    def _check_network(self, what: str, option: str) -> None:
        super()._check_network(what, option)
        check_unet(self.config, int(self.vae.config.latent_channels), None, None, what, option)

    def text_layout(self) -> list[TextPart]:
        """One encoder, whose positions are those of encoder_hidden_states."""
        return [TextPart("text_encoder", self.tokenizer, 0, int(self.tokenizer.model_max_length))]

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The UNet's prediction, [B, C, h, w]."""
        states = conditioning.encoder_hidden_states
        prediction: torch.Tensor = model(noisy, timesteps, states, return_dict=False)[0]
        return prediction

    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the UNet was called with."""
        given = {**dict(zip(UNET_ARGUMENTS, args, strict=False)), **kwargs}
        return given["sample"], torch.as_tensor(given["timestep"]), Conditioning(given["encoder_hidden_states"])

    def _pipeline_options(self) -> dict[str, Any]:
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def clip_ids(tokenizer: Any, captions: list[str], length: int | None = None) -> torch.Tensor:
    """Token ids [B, L] of ``captions``, padded and cut to ``length``, the tokenizer's full length by default."""
    tokens = tokenizer(
        captions,
        padding="max_length",
        max_length=length or tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    ids: torch.Tensor = tokens.input_ids
    return ids
