"""PixArt-Sigma: a diffusion transformer with one T5 text encoder, whose mask the network reads."""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers import AutoencoderKL, PixArtSigmaPipeline, PixArtTransformer2DModel
from transformers import T5EncoderModel, T5Tokenizer

from memsieve.filtering.denoisers.base import Call
from memsieve.filtering.denoisers.conditioning import Conditioning, TextPart
from memsieve.filtering.denoisers.latent import LatentDenoiser

__all__ = ["PixArtSigmaDenoiser"]

T5_TOKENS: Final = 300
"""What the pipeline gives T5 (``max_sequence_length``)."""


class PixArtSigmaDenoiser(LatentDenoiser):
    """Epsilon prediction by a transformer. Unconditional is the empty caption.

    Captions are lower-cased as in the pipeline; its ``clean_caption``, which also rewrites links and punctuation, is
    not applied. A learned variance (the second half of the output's channels) is neither trained nor used.
    """

    pipeline_class = PixArtSigmaPipeline
    parts = {
        "transformer": PixArtTransformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": T5EncoderModel,
        "tokenizer": T5Tokenizer,
    }
    mask_names = ("prompt_attention_mask", "negative_prompt_attention_mask")
    patch = 2
    text_encoder: Any
    tokenizer: Any

    def encode(self, captions: list[str]) -> Conditioning:
        """T5's states [B, 300, D] and its mask."""
        tokens = self.tokenizer(
            [_prepared(caption) for caption in captions],
            padding="max_length",
            max_length=T5_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        states = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return Conditioning(states, attention_mask=tokens.attention_mask)

    def text_layout(self) -> list[TextPart]:
        """One encoder, whose positions are those of encoder_hidden_states."""
        return [TextPart("text_encoder", self.tokenizer, 0, T5_TOKENS, prepared=_prepared)]

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The transformer's prediction, [B, C, h, w]."""
        prediction: torch.Tensor = model(
            noisy,
            encoder_hidden_states=conditioning.encoder_hidden_states,
            encoder_attention_mask=conditioning.attention_mask,
            timestep=timesteps,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return prediction[:, : noisy.shape[1]]

    def _call_options(self, latents: torch.Tensor | None) -> dict[str, Any]:
        """The size as asked for instead of the nearest one that the model was trained on, and no negative prompt: the
        pipeline's default is "", which it refuses beside embeddings."""
        return {"use_resolution_binning": False, "negative_prompt": None}

    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the transformer was called with."""
        given = {**dict(zip(("hidden_states",), args, strict=False)), **kwargs}
        conditioning = Conditioning(given["encoder_hidden_states"], attention_mask=given["encoder_attention_mask"])
        return given["hidden_states"], torch.as_tensor(given["timestep"]), conditioning


def _prepared(prompt: str) -> str:
    return prompt.lower().strip()
