"""Flux.2: a transformer on patches of latents, trained by flow matching, told layers of a language model."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Final

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, Flux2Pipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu, format_input
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from transformers import AutoProcessor, Mistral3ForConditionalGeneration

from memsieve.filtering.denoisers.base import Call
from memsieve.filtering.denoisers.conditioning import Conditioning, TextPart
from memsieve.filtering.denoisers.latent import LatentDenoiser
from memsieve.filtering.denoisers.spaces import RectifiedFlow

__all__ = ["TOKENS", "Flux2Denoiser", "Flux2Latents"]

TOKENS: Final = 512
"""What the pipelines give the text encoder (``max_sequence_length``), padding included: the network reads it all."""


class Flux2Latents(LatentDenoiser):
    """What the pipelines of Flux.2 share: the latents, the network, the levels that are sampled at.

    A latent here is what the network sees: two by two of the VAE's [B, 4 C, h, w], normalised by its running mean and
    variance (a batch norm).
    """

    space_class = RectifiedFlow
    embedded_guidance: ClassVar[float] = 1.0
    """What a guidance-distilled network is told while it is trained and measured."""
    layers: ClassVar[tuple[int, ...]]
    """Hidden states of the text encoder that stand side by side."""
    text_encoder: Any
    tokenizer: Any

    @property
    def lora_targets(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of diffusers' example; the single blocks' ``to_out`` by name, since the others' is a list of layers."""
        single = [f"single_transformer_blocks.{i}.attn.to_out" for i in range(int(self.config.num_single_layers))]
        return ("to_k", "to_q", "to_v", "to_out.0", "to_qkv_mlp_proj", *single)

    @property
    def latent_channels(self) -> int:
        """Channels of two by two of the VAE's latents."""
        return 4 * int(self.vae.config.latent_channels)

    @property
    def vae_factor(self) -> int:
        """Pixels a side of one latent."""
        return 2 * super().vae_factor

    @property
    def resolution(self) -> int:
        """1024 pixels with Flux.2's VAE: the network's config does not say, the pipeline does."""
        return 64 * self.vae_factor

    def posterior(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Its mode alone, as in diffusers' examples."""
        mean: torch.Tensor = Flux2Pipeline._patchify_latents(super().posterior(pixels)[0])
        return mean, torch.zeros_like(mean)

    def sample_latents(self, posterior: tuple[torch.Tensor, torch.Tensor], noise: torch.Tensor) -> torch.Tensor:
        """Latents [B, 4 C, h, w], float32, normalised as the pipeline undoes it."""
        mean, std = posterior
        middle, spread = self._norm(mean)
        return ((mean + std * noise.to(self.device, mean.dtype) - middle) / spread).float()

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        middle, spread = self._norm(latents)
        inner: torch.Tensor = Flux2Pipeline._unpatchify_latents(latents * spread + middle)
        return inner

    def _norm(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation [1, 4 C, 1, 1] of the VAE's batch norm."""
        norm, eps = self.vae.bn, self.vae.config.batch_norm_eps
        middle = norm.running_mean.view(1, -1, 1, 1).to(like)
        return middle, torch.sqrt(norm.running_var.view(1, -1, 1, 1) + eps).to(like)

    @abstractmethod
    def _tokens(self, captions: list[str]) -> Any:
        """Ids and mask of the prompts in their template, padded to ``TOKENS``."""

    def encode(self, captions: list[str]) -> Conditioning:
        """Some layers' states side by side, [B, 512, 3 D], those of padding too."""
        tokens = self._tokens(captions)
        ids, mask = (tokens[name].to(self.device) for name in ("input_ids", "attention_mask"))
        # The language model alone: nobody needs the logits.
        output = self.text_encoder.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        return Conditioning(torch.cat([output.hidden_states[layer] for layer in self.layers], dim=-1))

    def text_layout(self) -> list[TextPart]:
        """One encoder, whose positions are those of encoder_hidden_states."""
        return [TextPart("text_encoder", self.tokenizer, 0, TOKENS)]

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The transformer's prediction, [B, 4 C, h, w]."""
        states, places = conditioning.encoder_hidden_states, Flux2Pipeline._prepare_latent_ids(noisy).to(noisy.device)
        guidance = None
        if self.config.guidance_embeds:
            guidance = torch.full((len(noisy),), self.embedded_guidance, device=noisy.device)
        packed = model(
            hidden_states=Flux2Pipeline._pack_latents(noisy),
            timestep=timesteps / self.num_train_timesteps,
            guidance=guidance,
            encoder_hidden_states=states,
            txt_ids=Flux2Pipeline._prepare_text_ids(states).to(noisy.device),
            img_ids=places,
            return_dict=False,
        )[0]
        return self._unpack(packed, *noisy.shape[-2:])

    def _unpack(self, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return packed.transpose(1, 2).unflatten(2, (height, width))

    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the transformer was called with, its latents unpacked."""
        height, width = (int(kwargs["img_ids"][0, :, axis].max()) + 1 for axis in (1, 2))
        noisy = self._unpack(kwargs["hidden_states"], height, width)
        timesteps = torch.as_tensor(kwargs["timestep"]) * self.num_train_timesteps
        return noisy, timesteps, Conditioning(kwargs["encoder_hidden_states"])

    def set_timesteps(self, scheduler: Any, steps: int, resolution: int, device: torch.device) -> None:
        """As the pipelines: evenly spaced from s = 1, then shifted by the sequence's length and the number of steps."""
        tokens = (resolution // self.vae_factor) ** 2
        mu = compute_empirical_mu(image_seq_len=tokens, num_steps=steps)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps), device=device, mu=mu)


class Flux2Denoiser(Flux2Latents):
    """FLUX.2-dev, as diffusers' train_dreambooth_lora_flux2.py with ``--guidance_scale 1``.

    Guidance is distilled into it: it takes the scale as an input and has no trained unconditional branch, so that what
    needs one is refused (``distilled``). Its text encoder reads a system message before the prompt.
    """

    pipeline_class = Flux2Pipeline
    parts = {
        "transformer": Flux2Transformer2DModel,
        "vae": AutoencoderKLFlux2,
        "text_encoder": Mistral3ForConditionalGeneration,
        "tokenizer": AutoProcessor,
    }
    layers = (10, 20, 30)

    def _tokens(self, captions: list[str]) -> Any:
        return self.tokenizer.apply_chat_template(
            format_input(prompts=captions, system_message=SYSTEM_MESSAGE), add_generation_prompt=False, tokenize=True,
            return_dict=True, return_tensors="pt", padding="max_length", truncation=True, max_length=TOKENS,
        )  # fmt: skip
