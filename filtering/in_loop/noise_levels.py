"""What a loop's timesteps and predictions mean: how far an error of the network is one of the noise."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["NoiseLevels"]


class NoiseLevels:
    """By the loop's own scheduler, of whatever class: with ``alphas_cumprod`` diffusion, else flow matching.

    Args:
        noise_scheduler: a diffusers scheduler.

    Raises:
        ValueError: it is neither.
    """

    def __init__(self, noise_scheduler: Any) -> None:
        from memsieve.filtering.denoisers.spaces import EpsilonSpace

        self.num_train_timesteps = int(noise_scheduler.config.num_train_timesteps)
        self._scheduler, self._space = noise_scheduler, EpsilonSpace
        self._diffusion = hasattr(noise_scheduler, "alphas_cumprod")
        flow = "FlowMatch" in type(noise_scheduler).__name__ or noise_scheduler.config.get("use_flow_sigmas")
        if not self._diffusion and not flow:
            raise ValueError(
                f"noise_scheduler: a {type(noise_scheduler).__name__} says neither alphas_cumprod nor flow matching; "
                "give the scheduler that the loop noises with"
            )
        if flow:
            self._diffusion = False

    def factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        """|d eps / d prediction| at each t, [B] float64 on the CPU."""
        if not self._diffusion:
            return 1.0 - timesteps.detach().cpu().double() / self.num_train_timesteps
        # read now: diffusers' scripts set the prediction type inside their loop
        kind = str(self._scheduler.config.prediction_type)
        return self._space(self._scheduler.alphas_cumprod.cpu(), kind).factor(timesteps.detach().cpu().long())
