"""How a family noises latents, what its network predicts, and how that becomes a noise estimate."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr

__all__ = ["EpsilonSpace", "NoiseSpace", "RectifiedFlow", "VariancePreserving"]


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


class VariancePreserving:
    """Diffusion: x_t = alpha_t x_0 + sigma_t eps at integer t, predicting eps, v or x_0.

    Args:
        config: of the pipeline's scheduler, of whatever class.
        prediction_type: overrides the scheduler's own.
    """

    def __init__(self, config: dict[str, Any], prediction_type: str | None = None) -> None:
        self.noise_scheduler = DDPMScheduler.from_config(config)
        if prediction_type is not None:
            self.noise_scheduler.register_to_config(prediction_type=prediction_type)
        self.prediction_type = str(self.noise_scheduler.config.prediction_type)
        self.num_train_timesteps = int(self.noise_scheduler.config.num_train_timesteps)
        self._space = EpsilonSpace(self.noise_scheduler.alphas_cumprod, self.prediction_type)

    def timesteps_at(self, positions: torch.Tensor) -> torch.Tensor:
        """The positions themselves."""
        return positions

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = alpha_t x_0 + sigma_t eps."""
        noisy: torch.Tensor = self.noise_scheduler.add_noise(latents, noise, t)
        return noisy

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """eps, v or x_0, as the prediction type says."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        velocity: torch.Tensor = self.noise_scheduler.get_velocity(latents, noise, t)
        return velocity

    def to_epsilon(self, prediction: torch.Tensor, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The prediction as a noise estimate, float32."""
        return self._space.to_epsilon(prediction, noisy, t.long())

    def factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        """|d eps / d prediction| at each t, [B] float64."""
        return self._space.factor(timesteps.long())

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2, [B]."""
        ratio: torch.Tensor = compute_snr(self.noise_scheduler, timesteps)
        return ratio

    def sampler(self) -> Any:
        """Deterministic DDIM."""
        return DDIMScheduler.from_config(self.noise_scheduler.config)

    def draw_logit_normal(self, mean: float, std: float) -> None:
        """Refused: diffusion models are trained on uniform t.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"train.timestep_weighting: logit_normal is for flow models, and this one predicts {self.prediction_type}; "
            "use uniform (train.snr_gamma weights its loss)"
        )


class RectifiedFlow:
    """Flow matching: x_s = (1 - s) x_0 + s eps, predicting v = eps - x_0 (Liu et al., 2023; Esser et al., 2024).

    Timesteps are 1000 s, as schedulers and networks have them, and not whole where the scheduler shifts them
    (s' = shift s / (1 + (shift - 1) s)). eps = x_s + (1 - s) v, so that at s = 1, where samplers start, epsilon space
    says nothing.

    Args:
        config: of the pipeline's FlowMatchEulerDiscreteScheduler.
        prediction_type: must be left out, or ``flow``.

    Raises:
        ValueError: another prediction type is asked for.
    """

    prediction_type = "flow"

    def __init__(self, config: dict[str, Any], prediction_type: str | None = None) -> None:
        if prediction_type not in (None, "flow"):
            raise ValueError(
                f"model.prediction_type: {prediction_type} does not fit a flow model, which predicts eps - x_0; leave "
                "it out"
            )
        self.noise_scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        self.num_train_timesteps = int(self.noise_scheduler.config.num_train_timesteps)
        self._sigmas = self.noise_scheduler.sigmas.clone()  # from 1 down, as the scheduler has them
        self._drawn = torch.arange(self.num_train_timesteps).flip(0)

    def draw_logit_normal(self, mean: float, std: float) -> None:
        """Draw s by a logit-normal density (SD3's, Esser et al., 2024, section 3.1) rather than uniformly.

        u = sigmoid(mean + std z) picks from the scheduler's table, which runs from s = 1 down, as diffusers' training
        examples have it. A position is a quantile of u, so that equally spaced positions go on covering the density.
        """
        quantiles = torch.arange(self.num_train_timesteps, dtype=torch.float64).flip(0) + 0.5
        normal = NormalDist(mean, std)
        levels = torch.tensor([normal.inv_cdf(float(q) / self.num_train_timesteps) for q in quantiles])
        self._drawn = (levels.sigmoid() * self.num_train_timesteps).long().clamp(0, self.num_train_timesteps - 1)

    def timesteps_at(self, positions: torch.Tensor) -> torch.Tensor:
        """1000 s at each position, [B] float32; noise grows with the position."""
        drawn: torch.Tensor = self._sigmas[self._drawn[positions.to("cpu").long()]] * self.num_train_timesteps
        return drawn.to(positions.device)

    def _noise_share(self, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        share = (timesteps.to(like.device, torch.float32) / self.num_train_timesteps).to(like.dtype)
        return share.view(-1, *([1] * (like.ndim - 1)))

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_s = (1 - s) x_0 + s eps."""
        s = self._noise_share(t, latents)
        return (1.0 - s) * latents + s * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """v = eps - x_0."""
        return noise - latents

    def to_epsilon(self, prediction: torch.Tensor, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """eps = x_s + (1 - s) v, float32."""
        noisy = noisy.float()
        return noisy + (1.0 - self._noise_share(t, noisy)) * prediction.float()

    def factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        """1 - s at each t, [B] float64."""
        return 1.0 - timesteps.to("cpu").double() / self.num_train_timesteps

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Refused: Min-SNR is derived for diffusion.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "train.snr_gamma: Min-SNR weights are derived for diffusion models, not for flow matching; leave it out "
            "(train.timestep_weighting: logit_normal is what flow models are weighted by)"
        )

    def sampler(self) -> Any:
        """The pipeline's own Euler scheduler, anew."""
        return FlowMatchEulerDiscreteScheduler.from_config(self.noise_scheduler.config)


NoiseSpace = VariancePreserving | RectifiedFlow
