"""Stable Diffusion XL: a larger UNet, two CLIP text encoders joined feature by feature, added conditioning."""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from memsieve.filtering.denoisers.base import Call
from memsieve.filtering.denoisers.conditioning import Conditioning, TextPart
from memsieve.filtering.denoisers.latent import LatentDenoiser
from memsieve.filtering.denoisers.stable_diffusion import UNET_ARGUMENTS, clip_ids
from memsieve.filtering.denoisers.supported import check_unet

__all__ = ["StableDiffusionXLDenoiser"]

TIME_IDS: Final = 6
"""Original size, corner of the crop, target size: two numbers each."""
SIZES: Final = ("original_size", "target_size")
"""Arguments of the pipeline's call that say what the network is told of the picture's size."""


class StableDiffusionXLDenoiser(LatentDenoiser):
    """As diffusers' train_text_to_image_sdxl.py, with two differences.

    Unconditional is what the pipeline guides away from: zeros, pooled ones too, where it has
    ``force_zeros_for_empty_prompt`` (SDXL base), so caption dropout trains those rather than the empty caption's
    embeddings. And the time ids (original size, crop, target size) say what is done here, an honest crop:
    ``(height, width, 0, 0, height, width)``, which is also what the pipeline asks for by default.
    """

    pipeline_class = StableDiffusionXLPipeline
    parts = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
    }
    options = ("force_zeros_for_empty_prompt",)
    normalised = "mean_std"
    text_encoder: Any
    text_encoder_2: Any
    tokenizer: Any
    tokenizer_2: Any

    def encode(self, captions: list[str]) -> Conditioning:
        """Both encoders' last hidden layer but one, side by side [B, L, D1 + D2]; pooled [B, P] of the second."""
        states, pooled = [], None
        for tokenizer, encoder in self._encoders():
            output = encoder(clip_ids(tokenizer, captions).to(self.device), output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled = output[0]
        return Conditioning(torch.cat(states, dim=-1), pooled)

    def _check_network(self, what: str, option: str) -> None:
        super()._check_network(what, option)
        pooled, each = self.text_encoder_2.config.projection_dim, self.config.get("addition_time_embed_dim") or 0
        values = int(pooled) + TIME_IDS * int(each)
        check_unet(self.config, int(self.vae.config.latent_channels), "text_time", values, what, option)

    def _encoders(self) -> list[tuple[Any, Any]]:
        return [(self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)]

    def _without_prompt(self) -> Conditioning:
        empty = self.encode([""])
        return empty.map(torch.zeros_like) if self.settings.get("force_zeros_for_empty_prompt", True) else empty

    def text_layout(self) -> list[TextPart]:
        """Two encoders at the same positions, each with its own features."""
        length, width = int(self.tokenizer.model_max_length), int(self.text_encoder.config.hidden_size)
        return [
            TextPart("text_encoder", self.tokenizer, 0, length, (0, width)),
            TextPart("text_encoder_2", self.tokenizer_2, 0, length, (width, None)),
        ]

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The UNet's prediction, [B, C, h, w]; without time ids in ``conditioning`` those of an honest crop."""
        time_ids = conditioning.time_ids
        if time_ids is None:
            height, width = self._pixels(noisy)
            time_ids = noisy.new_tensor([height, width, 0, 0, height, width]).expand(len(noisy), -1)
        added = {"text_embeds": conditioning.pooled, "time_ids": time_ids}
        states = conditioning.encoder_hidden_states
        prediction: torch.Tensor = model(noisy, timesteps, states, added_cond_kwargs=added, return_dict=False)[0]
        return prediction

    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the UNet was called with."""
        given = {**dict(zip(UNET_ARGUMENTS, args, strict=False)), **kwargs}
        added = given["added_cond_kwargs"]
        states = given["encoder_hidden_states"]
        conditioning = Conditioning(states, added["text_embeds"], time_ids=added["time_ids"])
        return given["sample"], torch.as_tensor(given["timestep"]), conditioning

    def _pixels(self, latents: torch.Tensor) -> tuple[int, int]:
        """Height and width of the picture that ``latents`` [B, C, h, w] are decoded to."""
        height, width = latents.shape[-2:]
        return height * self.vae_factor, width * self.vae_factor

    def _call_options(self, latents: torch.Tensor | None) -> dict[str, Any]:
        """The sizes that the network is told, where ``latents`` give them."""
        return {} if latents is None else dict.fromkeys(SIZES, self._pixels(latents))

    def _pipeline_options(self) -> dict[str, Any]:
        return {**self.settings, "add_watermarker": False}
