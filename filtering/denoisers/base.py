"""The interface that training, inference and audits know a model family by."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

import torch

from memsieve.filtering.denoisers.conditioning import Conditioning, TextPart
from memsieve.filtering.denoisers.spaces import EpsilonSpace

__all__ = ["EPSILON_FLOOR", "Call", "Conditioning", "Denoiser", "EpsilonSpace", "TextPart"]

EPSILON_FLOOR: Final = 0.05
"""Where d eps / d prediction is smaller than this, epsilon space says nothing and a draw is not scored."""

Call = tuple[torch.Tensor, torch.Tensor, Conditioning]
"""What a network was called with: its input [B, C, h, w], the timestep [] or [B], and its conditioning."""


class Denoiser(Protocol):
    """One model family: encode, noise, predict, convert to epsilon space, export.

    ``timesteps`` are everywhere in the scheduler's own units, 0 to ``num_train_timesteps``: integers of diffusion
    models, 1000 s of flow models, where s is the share of noise. Noise grows with them in every family.
    """

    model: torch.nn.Module
    prediction_type: str
    """epsilon, v_prediction, sample, or flow."""
    num_train_timesteps: int
    device: torch.device
    guidance_name: str
    """The argument of the pipeline's call that guides by the unconditional prediction."""
    unguided: float
    """The value of that argument that guides nothing; more guides so much more."""
    lora_targets: tuple[str, ...]
    """Ends of the names of the layers that a LoRA adapts by default."""
    separate_branches: bool
    """Whether the pipeline calls the network once with and once without the prompt, not once with both in a row."""

    prompt_first: bool
    """Where both are in a row: whether those with the prompt come first."""

    @property
    def distilled(self) -> str | None:
        """Why there is no unconditional prediction to compare with (guidance is distilled into the network), or None.

        Signals and checks that need one are refused with this reason.
        """
        ...

    @property
    def resolution(self) -> int:
        """Pixels a side that the model was made for."""
        ...

    @property
    def idle_layers(self) -> tuple[str, ...]:
        """Beginnings of the names of parameters that nothing the network predicts depends on: they stay as they are.

        Gradients never reach them, and DDP waits for every gradient that it is not told of.
        """
        ...

    def to(self, device: torch.device) -> Any:
        """Move the frozen parts; the trained model is moved by whoever prepares it."""
        ...

    def latents(self, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w] of ``pixels`` [B, 3, H, W] in [-1, 1], sampled with the given ``noise``."""
        ...

    def posterior(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the unscaled latents of ``pixels``: encoded once, sampled often."""
        ...

    def sample_latents(self, posterior: tuple[torch.Tensor, torch.Tensor], noise: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w] of a ``posterior``, sampled with the given ``noise``."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] in [-1, 1], float32, of the network's latents [B, C, h, w]."""
        ...

    def latent_shape(self, height: int, width: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of one latent of ``height`` x ``width`` pixels, square without ``width``; ValueError where the
        family has no such latent."""
        ...

    def conditioning(self, captions: list[str]) -> Conditioning:
        """The encoded ``captions``; an empty caption is the family's own unconditional one."""
        ...

    def unconditional(self, count: int) -> Conditioning:
        """The family's own unconditional conditioning, computed once, ``count`` times."""
        ...

    def text_layout(self) -> list[TextPart]:
        """Where each text encoder stands in the sequence that the network attends to."""
        ...

    def timesteps_at(self, positions: torch.Tensor) -> torch.Tensor:
        """The timesteps [B] of ``positions`` [B], integers drawn uniformly from [0, num_train_timesteps)."""
        ...

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t = alpha_t x_0 + sigma_t eps, or x_s = (1 - s) x_0 + s eps."""
        ...

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The model's own prediction, [B, C, h, w]."""
        ...

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the prediction is trained towards."""
        ...

    def to_epsilon(self, prediction: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The prediction as a noise estimate."""
        ...

    def epsilon_factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        """|d eps / d prediction| at each t, [B]; draws under ``EPSILON_FLOOR`` are not scored."""
        ...

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2, [B]; ValueError where the family is not weighted by it."""
        ...

    def sampler(self) -> Any:
        """A deterministic scheduler of its own to draw images with."""
        ...

    def set_timesteps(self, scheduler: Any, steps: int, resolution: int, device: torch.device) -> None:
        """Prepare a sampling ``scheduler`` as the family's pipeline does for ``resolution`` pixels a side."""
        ...

    def pipeline(self, model: torch.nn.Module | None = None) -> Any:
        """A diffusers pipeline of the parts, with ``model`` in place of the denoising network where given."""
        ...

    def call_arguments(
        self,
        cond: Conditioning,
        uncond: Conditioning | None,
        guidance_scale: float,
        latents: torch.Tensor | None = None,
    ) -> dict[str, Any]:
        """Arguments of the pipeline's call that draw from embeddings, and from initial noise ``latents`` [B, C, h, w].

        Without ``uncond`` nothing is guided.
        """
        ...

    def guided(self, cond: torch.Tensor, uncond: torch.Tensor, guidance_scale: float) -> torch.Tensor:
        """The prediction that the pipeline samples with, of both branches' [B, C, h, w]."""
        ...

    def output_rows(self, output: Any) -> torch.Tensor:
        """The predictions [rows, ...] in what the network returned."""
        ...

    def as_output(self, rows: torch.Tensor, output: Any) -> Any:
        """``rows`` in the form of ``output``."""
        ...

    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the network was called with by the family's pipeline: ``predict`` the other way round."""
        ...

    def export(self, folder: Path, model: torch.nn.Module) -> None:
        """Write a plain diffusers pipeline folder."""
        ...
