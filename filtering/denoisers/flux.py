"""Flux.1: a transformer on packed latents trained by flow matching, T5 for the sequence, CLIP for one pooled vector."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from memsieve.filtering.denoisers.base import Call
from memsieve.filtering.denoisers.conditioning import Conditioning, TextPart
from memsieve.filtering.denoisers.latent import LatentDenoiser
from memsieve.filtering.denoisers.spaces import RectifiedFlow
from memsieve.filtering.denoisers.stable_diffusion import clip_ids
from memsieve.filtering.denoisers.stable_diffusion_3 import evenly_from_noise

__all__ = ["FluxDenoiser"]

T5_TOKENS: Final = 512
"""What the pipeline gives T5 (``max_sequence_length``)."""


class FluxDenoiser(LatentDenoiser):
    """As diffusers' train_dreambooth_flux.py. Latents stay [B, C, h, w] outside; packing them is done in here.

    FLUX.1-dev is guidance-distilled (``guidance_embeds``): it takes the guidance scale as an input and has no trained
    unconditional branch, so that what needs one is refused (``distilled``). It is trained and measured with an embedded
    scale of 1, as diffusers' example does, and drawn with the scale that is asked for. A checkpoint without that input
    (de-distilled ones) is guided by the empty caption, the pipeline's ``true_cfg_scale``. FLUX.1-schnell, distilled in
    its steps, has no such input either, and cannot be told from those: its magnitudes compare with an empty caption
    that was never trained to be guided by.
    """

    pipeline_class = FluxPipeline
    parts = {
        "transformer": FluxTransformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": T5EncoderModel,
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": T5TokenizerFast,
    }
    space_class = RectifiedFlow
    normalised = "shift"
    patch = 2
    packed = 4
    lora_targets = (
        *("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0"),
        *("attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    )
    guidance_name = "true_cfg_scale"
    negative_prompt_guides = True
    separate_branches = True
    embedded_guidance: ClassVar[float] = 1.0
    """What a guidance-distilled network is told while it is trained and measured."""
    text_encoder: Any
    text_encoder_2: Any
    tokenizer: Any
    tokenizer_2: Any

    @property
    def resolution(self) -> int:
        """1024 pixels with Flux's VAE: the network's config does not say, the pipeline does."""
        return 128 * self.vae_factor

    def encode(self, captions: list[str]) -> Conditioning:
        """T5's states [B, 512, D], and CLIP's pooled output [B, P]."""
        clip = self.text_encoder(clip_ids(self.tokenizer, captions).to(self.device), output_hidden_states=False)
        states = self.text_encoder_2(clip_ids(self.tokenizer_2, captions, T5_TOKENS).to(self.device))[0]
        return Conditioning(states, clip.pooler_output)

    def text_layout(self) -> list[TextPart]:
        """T5 alone: CLIP gives one vector for the whole prompt."""
        return [TextPart("text_encoder_2", self.tokenizer_2, 0, T5_TOKENS)]

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The transformer's prediction, unpacked again, [B, C, h, w]."""
        count, channels, height, width = noisy.shape
        states = conditioning.encoder_hidden_states
        guidance = None
        if self.config.guidance_embeds:
            guidance = torch.full((count,), self.embedded_guidance, device=noisy.device)
        packed = model(
            hidden_states=FluxPipeline._pack_latents(noisy, count, channels, height, width),
            timestep=timesteps / self.num_train_timesteps,
            guidance=guidance,
            pooled_projections=conditioning.pooled,
            encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3, device=noisy.device, dtype=noisy.dtype),
            img_ids=FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, noisy.device, noisy.dtype),
            return_dict=False,
        )[0]
        return self._unpack(packed, height, width)

    def _unpack(self, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
        # Sides in pixels of a factor of 1 are sides in latents.
        latents: torch.Tensor = FluxPipeline._unpack_latents(packed, height, width, 1)
        return latents

    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the transformer was called with, its latents unpacked."""
        rows, columns = (int(kwargs["img_ids"][:, axis].max()) + 1 for axis in (1, 2))
        conditioning = Conditioning(kwargs["encoder_hidden_states"], kwargs["pooled_projections"])
        noisy = self._unpack(kwargs["hidden_states"], 2 * rows, 2 * columns)
        return noisy, torch.as_tensor(kwargs["timestep"]) * self.num_train_timesteps, conditioning

    def set_timesteps(self, scheduler: Any, steps: int, resolution: int, device: torch.device) -> None:
        """As the pipeline: evenly spaced from s = 1, then shifted by the length of the sequence."""
        evenly_from_noise(scheduler, steps, (resolution // self.vae_factor // 2) ** 2, device)

    @classmethod
    def guidance(cls, pipe: Any, guidance_scale: float) -> dict[str, Any]:
        """By the embedded scale where the network has one, else by the empty prompt."""
        if pipe.transformer.config.guidance_embeds:
            return {"guidance_scale": guidance_scale}
        return super().guidance(pipe, guidance_scale)

    def _latents_argument(self, latents: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
        return packed
