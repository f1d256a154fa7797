"""Flux.2 klein: Flux.2 with a Qwen3 as its text encoder; the base models are guided, the others distilled."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
from transformers import Qwen2TokenizerFast, Qwen3ForCausalLM

from memsieve.filtering.denoisers.chat import around, chats
from memsieve.filtering.denoisers.conditioning import TextPart
from memsieve.filtering.denoisers.flux_2 import TOKENS, Flux2Latents

__all__ = ["Flux2KleinDenoiser"]


class Flux2KleinDenoiser(Flux2Latents):
    """As diffusers' train_dreambooth_lora_flux2_klein.py. Unconditional is the empty message.

    The models that draw in four steps are told from the base models by their pipeline's ``is_distilled``: what needs an
    unconditional branch is refused for them, since the pipeline never guides them and nobody trained one.
    """

    pipeline_class = Flux2KleinPipeline
    parts = {
        "transformer": Flux2Transformer2DModel,
        "vae": AutoencoderKLFlux2,
        "text_encoder": Qwen3ForCausalLM,
        "tokenizer": Qwen2TokenizerFast,
    }
    options = ("is_distilled",)
    separate_branches = True
    layers = (9, 18, 27)

    @property
    def distilled(self) -> str | None:
        """A model that draws in few steps, and never guided."""
        if self.settings.get("is_distilled"):
            return (
                "it is distilled in its steps (is_distilled in model_index.json): its pipeline never guides it, and it "
                "has no trained unconditional prediction to compare with; the base model has (FLUX.2-klein-base)"
            )
        return super().distilled

    def _tokens(self, captions: list[str]) -> Any:
        texts = chats(self.tokenizer, captions, enable_thinking=False)
        return self.tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")

    def text_layout(self) -> list[TextPart]:
        """One encoder; the template stands around the prompt."""
        before, after = around(self.tokenizer, enable_thinking=False)
        return [TextPart("text_encoder", self.tokenizer, 0, TOKENS, before=before, after=after)]
