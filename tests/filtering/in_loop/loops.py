"""The inner part of diffusers' training scripts, from latents on, for tiny pipelines: what stands between their forward
and their loss is what a filter inside them has to do with.

Names are theirs. ``Script.step`` is a step up to the loss; the filter's line is where they take the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from tests.tiny_models import tiny_family
from tests.train.recent_examples import EXAMPLES

__all__ = ["NAMES", "Script"]

NAMES = ("sd", "sdxl", "flux_2_klein", "z_image", "qwen_image")
SHAPES = {"sd": (4, 8, 8), "sdxl": (4, 8, 8), "flux_2_klein": (16, 4, 4), "z_image": (4, 8, 8), "qwen_image": (4, 4, 4)}


@dataclass
class Drawn:
    """What a step draws: model_input, noise, timesteps and noisy_model_input."""

    model_input: Tensor
    noise: Tensor
    timesteps: Tensor
    noisy: Tensor
    target: Tensor


class Script:
    """A family's script: its network and scheduler, and how it predicts.

    Attributes:
        network: what the loop calls; replace it by what accelerate has prepared.
    """

    def __init__(self, name: str) -> None:
        self.name, self.pipe = name, tiny_family(name)
        self.flow = name not in ("sd", "sdxl")
        kind: Any = FlowMatchEulerDiscreteScheduler if self.flow else DDPMScheduler
        self.noise_scheduler = kind.from_config(self.pipe.scheduler.config)
        self.network: Any = getattr(self.pipe, "unet", None) or self.pipe.transformer
        self.network.train()
        parts = [part for part in self.pipe.components.values() if isinstance(part, torch.nn.Module)]
        for part in parts:
            part.requires_grad_(part is self.network)
        self.pipe.vae.eval()

    def draw(self, keys: list[str], generator: torch.Generator) -> Drawn:
        """Latents that belong to the keys; noise and timesteps from ``generator``."""
        model_input = torch.stack([self._latent(key) for key in keys])
        noise = torch.randn(model_input.shape, generator=generator)
        steps = torch.randint(0, 700, (len(keys),), generator=generator)
        if self.flow:
            timesteps = self.noise_scheduler.timesteps[999 - steps]
            sigmas = (timesteps / 1000).view(-1, 1, 1, 1)
            noisy = (1.0 - sigmas) * model_input + sigmas * noise
            return Drawn(model_input, noise, timesteps, noisy, noise - model_input)
        noisy = self.noise_scheduler.add_noise(model_input, noise, steps)
        return Drawn(model_input, noise, steps, noisy, noise)

    def _latent(self, key: str) -> Tensor:
        seed = int.from_bytes(key.encode()[-6:], "big")
        return torch.randn(SHAPES[self.name], generator=torch.Generator().manual_seed(seed))

    def predict(self, prompts: list[str], drawn: Drawn) -> Tensor:
        """``model_pred`` as the script has it before its loss."""
        network, noisy, timesteps = self.network, drawn.noisy, drawn.timesteps
        if self.flow:
            setattr(self.pipe, "transformer", network)  # noqa: B010
            return EXAMPLES[self.name](self.pipe, prompts, noisy, timesteps)
        with torch.no_grad():
            encoded = self.pipe.encode_prompt(prompts, "cpu", 1, False) if self.name == "sd" else (
                self.pipe.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False))  # fmt: skip
        if self.name == "sd":
            return network(noisy, timesteps, encoded[0], return_dict=False)[0]  # type: ignore[no-any-return]
        ids = torch.tensor([[16, 16, 0, 0, 16, 16]] * len(prompts), dtype=torch.float32)
        added = {"time_ids": ids, "text_embeds": encoded[2]}
        return network(noisy, timesteps, encoded[0], added_cond_kwargs=added, return_dict=False)[0]  # type: ignore[no-any-return]
