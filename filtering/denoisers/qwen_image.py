"""Qwen-Image: a double-stream transformer on packed latents trained by flow matching, with Qwen2.5-VL as its reader."""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2TokenizerFast

from memsieve.filtering.denoisers.base import Call
from memsieve.filtering.denoisers.chat import padded
from memsieve.filtering.denoisers.conditioning import Conditioning, TextPart
from memsieve.filtering.denoisers.latent import LatentDenoiser
from memsieve.filtering.denoisers.spaces import RectifiedFlow
from memsieve.filtering.denoisers.stable_diffusion_3 import evenly_from_noise

__all__ = ["QwenImageDenoiser"]

TOKENS: Final = 512
"""Positions that the pipeline keeps of a prompt (``max_sequence_length``)."""
BEFORE: Final = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
AFTER: Final = "<|im_end|>\n<|im_start|>assistant\n"
DROPPED: Final = 34
"""Positions of ``BEFORE``, which the pipeline leaves out."""


class QwenImageDenoiser(LatentDenoiser):
    """As diffusers' train_dreambooth_lora_qwen_image.py. Latents stay [B, C, h, w] outside; packing is done in here.

    Unconditional is the empty prompt in its template (the model's page draws with " ", one space). The pipeline guides
    by ``true_cfg_scale``, and gives the guided prediction of each position the conditional one's length: ``guided``.
    """

    pipeline_class = QwenImagePipeline
    parts = {
        "transformer": QwenImageTransformer2DModel,
        "vae": AutoencoderKLQwenImage,
        "text_encoder": Qwen2_5_VLForConditionalGeneration,
        "tokenizer": Qwen2TokenizerFast,
    }
    space_class = RectifiedFlow
    normalised = "mean_std"
    patch = 2
    packed = 4
    guidance_name = "true_cfg_scale"
    negative_prompt_guides = True
    mask_names = ("prompt_embeds_mask", "negative_prompt_embeds_mask")
    separate_branches = True
    text_encoder: Any
    tokenizer: Any

    @property
    def idle_layers(self) -> tuple[str, ...]:
        """The last block's way of the text on, which no block follows."""
        last = f"transformer_blocks.{int(self.config.num_layers) - 1}"
        return f"{last}.attn.to_add_out.", f"{last}.txt_mlp."

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return int(self.vae.config.z_dim)

    @property
    def vae_factor(self) -> int:
        """Pixels a side of one latent."""
        return int(2 ** len(self.vae.config.temperal_downsample))

    @property
    def resolution(self) -> int:
        """1024 pixels with Qwen-Image's VAE: the network's config does not say, the pipeline does."""
        return 128 * self.vae_factor

    def posterior(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the one frame that a picture is to the VAE, which is a video's."""
        mean, std = super().posterior(pixels.unsqueeze(2))
        return mean.squeeze(2), std.squeeze(2)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] in [-1, 1], float32, of the network's latents [B, C, h, w]."""
        return super().decode(latents).squeeze(2)

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        return super()._unscaled(latents).unsqueeze(2)

    def encode(self, captions: list[str]) -> Conditioning:
        """The last states behind the template's first part, those of text first [B, 512, D], and their mask."""
        tokens = self.tokenizer(
            [BEFORE + caption + AFTER for caption in captions],
            padding=True, max_length=TOKENS + DROPPED, truncation=True, return_tensors="pt",
        ).to(self.device)  # fmt: skip
        # The language model alone: nobody needs the logits.
        output = self.text_encoder.model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True
        )
        states = output.hidden_states[-1]
        kept = [row[mask.bool()][DROPPED:] for row, mask in zip(states, tokens.attention_mask, strict=True)]
        return padded(kept, TOKENS)

    def text_layout(self) -> list[TextPart]:
        """One encoder; of the template the part behind the prompt is left."""
        return [TextPart("text_encoder", self.tokenizer, 0, TOKENS, before=BEFORE, dropped=DROPPED, after=AFTER)]

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The transformer's prediction, unpacked again, [B, C, h, w]."""
        height, width = noisy.shape[-2:]
        states, mask = _cut(conditioning)
        packed = model(
            hidden_states=self._pack(noisy),
            timestep=timesteps / self.num_train_timesteps,
            encoder_hidden_states=states,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
            return_dict=False,
        )[0]
        return self._unpack(packed, height, width)

    def _pack(self, latents: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = QwenImagePipeline._pack_latents(latents, *latents.shape)
        return packed

    def _unpack(self, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
        # Sides in pixels of a factor of 1 are sides in latents; the third axis is time.
        latents: torch.Tensor = QwenImagePipeline._unpack_latents(packed, height, width, 1).squeeze(2)
        return latents

    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the transformer was called with, its latents unpacked and its prompts padded."""
        states, mask = kwargs["encoder_hidden_states"], kwargs["encoder_hidden_states_mask"]
        rows = list(states) if mask is None else [row[kept.bool()] for row, kept in zip(states, mask, strict=True)]
        _, height, width = kwargs["img_shapes"][0][0]
        noisy = self._unpack(kwargs["hidden_states"], 2 * height, 2 * width)
        return noisy, torch.as_tensor(kwargs["timestep"]) * self.num_train_timesteps, padded(rows, TOKENS)

    def set_timesteps(self, scheduler: Any, steps: int, resolution: int, device: torch.device) -> None:
        """As the pipeline: evenly spaced from s = 1, then shifted by the length of the sequence."""
        evenly_from_noise(scheduler, steps, (resolution // self.vae_factor // 2) ** 2, device)

    def guided(self, cond: torch.Tensor, uncond: torch.Tensor, guidance_scale: float) -> torch.Tensor:
        """Guided, then scaled at each position of the sequence to the length of the conditional prediction."""
        combined = self._pack(super().guided(cond, uncond, guidance_scale))
        length = torch.linalg.vector_norm(self._pack(cond), dim=-1, keepdim=True)
        scaled = combined * (length / torch.linalg.vector_norm(combined, dim=-1, keepdim=True))
        return self._unpack(scaled, *cond.shape[-2:])

    def _latents_argument(self, latents: torch.Tensor) -> torch.Tensor:
        return self._pack(latents)


def _cut(conditioning: Conditioning) -> tuple[torch.Tensor, torch.Tensor | None]:
    """States and mask as far as the longest prompt goes, and no mask where all go so far, as in the pipeline."""
    states, mask = conditioning.encoder_hidden_states, conditioning.attention_mask
    assert mask is not None
    longest = int(mask.sum(1).max())
    kept = mask[:, :longest]
    return states[:, :longest], None if bool(kept.all()) else kept
