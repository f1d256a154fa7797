"""The interface that training, inference and audits know a model family by."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

import torch

__all__ = ["EPSILON_FLOOR", "Denoiser", "EpsilonSpace"]

EPSILON_FLOOR: Final = 0.05
"""Where d eps / d prediction is smaller than this, epsilon space says nothing and a draw is not scored."""


class Denoiser(Protocol):
    """One model family: encode, noise, predict, convert to epsilon space, export."""

    model: torch.nn.Module
    prediction_type: str
    num_train_timesteps: int

    def latents(self, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w] of ``pixels`` [B, 3, H, W] in [-1, 1], sampled with the given ``noise``."""
        ...

    def posterior(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the unscaled latents of ``pixels``: encoded once, sampled often."""
        ...

    def sample_latents(self, posterior: tuple[torch.Tensor, torch.Tensor], noise: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w] of a ``posterior``, sampled with the given ``noise``."""
        ...

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, h, w) of one latent at ``resolution`` pixels."""
        ...

    def conditioning(self, captions: list[str]) -> torch.Tensor:
        """encoder_hidden_states [B, L, D] of ``captions``."""
        ...

    def unconditional(self, count: int) -> torch.Tensor:
        """The family's own unconditional conditioning, computed once, [count, L, D]."""
        ...

    def text_layout(self) -> list[tuple[str, Any, int]]:
        """(encoder, tokenizer, first position) for each text encoder in the sequence that the network attends to.

        Encoders joined feature by feature share their positions, one that follows in the sequence starts further on.
        """
        ...

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t = alpha_t x_0 + sigma_t eps."""
        ...

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: torch.Tensor
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
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2, [B]."""
        ...

    def pipeline(self, model: torch.nn.Module | None = None) -> Any:
        """A diffusers pipeline of the parts, with ``model`` in place of the denoising network where given."""
        ...

    def export(self, folder: Path, model: torch.nn.Module) -> None:
        """Write a plain diffusers pipeline folder."""
        ...


class EpsilonSpace:
    """Variance-preserving parametrisations in one space.

    x_t = alpha_t x_0 + sigma_t eps. With v = alpha_t eps - sigma_t x_0 (Salimans & Ho, 2022),
    eps = alpha_t v + sigma_t x_t; with x_0 predicted, eps = (x_t - alpha_t x_0) / sigma_t.
    """

    def __init__(self, alphas_cumprod: torch.Tensor, prediction_type: str) -> None:
        if prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(
                f"prediction_type '{prediction_type}' is not known; use epsilon, v_prediction or sample (the "
                "scheduler's config names it)"
            )
        self.alpha = alphas_cumprod.double().sqrt()
        self.sigma = (1.0 - alphas_cumprod.double()).sqrt()
        self.prediction_type = prediction_type

    def coefficients(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha_t and sigma_t, broadcastable to ``like`` and in its dtype."""
        shape = (-1, *([1] * (like.ndim - 1)))
        index = timesteps.to("cpu")
        return tuple(  # type: ignore[return-value]
            table[index].to(like.device, like.dtype).view(shape) for table in (self.alpha, self.sigma)
        )

    def to_epsilon(self, prediction: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The prediction as a noise estimate, float32."""
        prediction, noisy = prediction.float(), noisy.float()
        alpha, sigma = self.coefficients(timesteps, noisy)
        if self.prediction_type == "epsilon":
            return prediction
        if self.prediction_type == "v_prediction":
            return alpha * prediction + sigma * noisy
        return (noisy - alpha * prediction) / sigma.clamp_min(1e-6)

    def factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        """|d eps / d prediction| at each t, [B] float64."""
        index = timesteps.to("cpu")
        if self.prediction_type == "epsilon":
            return torch.ones(len(index), dtype=torch.float64)
        if self.prediction_type == "v_prediction":
            return self.alpha[index]
        return self.alpha[index] / self.sigma[index].clamp_min(1e-6)
