"""Z-Image: one transformer over text and picture, trained by flow matching, with a Qwen3 that reads a chat template."""

from __future__ import annotations

import warnings
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen2TokenizerFast, Qwen3Model

from memsieve.filtering.denoisers.base import Call
from memsieve.filtering.denoisers.chat import around, chats, padded
from memsieve.filtering.denoisers.conditioning import Conditioning, TextPart
from memsieve.filtering.denoisers.latent import LatentDenoiser
from memsieve.filtering.denoisers.spaces import RectifiedFlow
from memsieve.filtering.denoisers.stable_diffusion_3 import evenly_from_noise

__all__ = ["ZImageDenoiser"]

TOKENS: Final = 512
"""What the pipeline gives the text encoder (``max_sequence_length``)."""


class ZImageDenoiser(LatentDenoiser):
    """As diffusers' train_dreambooth_lora_z_image.py. Unconditional is the empty message.

    The network is told 1 - s in the place of s, gives x_0 - eps in the place of eps - x_0, and takes prompts without
    padding; both are turned round in here. The pipeline's ``guidance_scale`` counts from 0: w there is w + 1 elsewhere.

    Z-Image-Turbo, distilled in its steps, is of the same classes, and no file of it says so: its magnitudes compare
    with an empty message that it was not trained to be guided by. A name with "turbo" in it is warned about.
    """

    pipeline_class = ZImagePipeline
    parts = {
        "transformer": ZImageTransformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": Qwen3Model,
        "tokenizer": Qwen2TokenizerFast,
    }
    space_class = RectifiedFlow
    normalised = "shift"
    patch = 2
    unguided = 0.0
    prompt_first = True
    text_encoder: Any
    tokenizer: Any

    def _settle(self, scheduler: dict[str, Any], prediction_type: str | None, what: str, option: str) -> None:
        super()._settle(scheduler, prediction_type, what, option)
        if "turbo" in self.folder.lower():
            warnings.warn(
                f"{option}: '{self.folder}' is by its name a Turbo, distilled to draw in few steps unguided: it "
                "was not trained to be guided by the empty prompt that magnitudes compare with, and training it as "
                "others are undoes the distillation. Z-Image itself is the model to fine-tune; for a Turbo rely on "
                "reference_residual, and reference_ratio in audits",
                stacklevel=4,
            )

    @property
    def resolution(self) -> int:
        """1024 pixels with Z-Image's VAE: the network's config does not say, the pipeline does."""
        return 128 * self.vae_factor

    def posterior(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Its mode alone, as in diffusers' example."""
        mean, std = super().posterior(pixels)
        return mean, torch.zeros_like(std)

    def encode(self, captions: list[str]) -> Conditioning:
        """The states before the last layer, those of text first [B, 512, D], and the mask that says how many."""
        texts = chats(self.tokenizer, captions, enable_thinking=True)
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        ).to(self.device)
        output = self.text_encoder(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask.bool(), output_hidden_states=True
        )
        states = output.hidden_states[-2]
        kept = [row[mask.bool()] for row, mask in zip(states, tokens.attention_mask, strict=True)]
        return padded(kept, TOKENS)

    def text_layout(self) -> list[TextPart]:
        """One encoder; the template stands around the prompt."""
        before, after = around(self.tokenizer, enable_thinking=True)
        return [TextPart("text_encoder", self.tokenizer, 0, TOKENS, before=before, after=after)]

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The velocity eps - x_0 [B, C, h, w]."""
        assert conditioning.attention_mask is not None
        rows = zip(conditioning.encoder_hidden_states, conditioning.attention_mask, strict=True)
        output = model(
            list(noisy.unsqueeze(2).unbind(0)),
            (self.num_train_timesteps - timesteps) / self.num_train_timesteps,
            [states[mask.bool()] for states, mask in rows],
            return_dict=False,
        )
        return -self.output_rows(output).squeeze(2)

    def output_rows(self, output: Any) -> torch.Tensor:
        """[rows, C, 1, h, w]: the network gives a list."""
        return torch.stack(list(super().output_rows(output)))

    def as_output(self, rows: torch.Tensor, output: Any) -> Any:
        """As a list again."""
        return super().as_output(list(rows.unbind(0)), output)  # type: ignore[arg-type]

    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the transformer was called with, prompts padded again."""
        given = {**dict(zip(("x", "t", "cap_feats"), args, strict=False)), **kwargs}
        timesteps = self.num_train_timesteps * (1.0 - torch.as_tensor(given["t"]))
        return torch.stack(list(given["x"])).squeeze(2), timesteps, padded(given["cap_feats"], TOKENS)

    def set_timesteps(self, scheduler: Any, steps: int, resolution: int, device: torch.device) -> None:
        """As the pipeline: evenly spaced from s = 1, then shifted."""
        side = resolution // self.vae_factor // self.patch
        evenly_from_noise(scheduler, steps, side * side, device)

    def _prompt_argument(self, states: Conditioning) -> Any:
        """A list of rows without their padding."""
        if states.attention_mask is None:
            return states.encoder_hidden_states
        rows = zip(states.encoder_hidden_states, states.attention_mask, strict=True)
        return [row[mask.bool()] for row, mask in rows]
