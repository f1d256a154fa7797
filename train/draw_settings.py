"""What the draws of a run depend on beside positions."""

from __future__ import annotations

from dataclasses import dataclass

from memsieve.train.config import RunConfig

__all__ = ["DrawSettings"]


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """What is set about the draws of visits; the defaults draw plain noise and keep captions.

    Attributes:
        seed: of the run.
        resolution: side of padding, where nothing says its shape.
        caption_dropout: probability that a visit is trained without its caption.
        random_tokens: tokens of the vocabulary that are added to a caption.
        noise_offset: factor of a normal value per channel that is added to the noise.
        input_perturbation: factor of further normal noise that x_t holds and the target does not.
        max_timestep: visits at or beyond this share of the schedule are no evidence.
    """

    seed: int
    resolution: int
    caption_dropout: float = 0.0
    random_tokens: int = 0
    noise_offset: float = 0.0
    input_perturbation: float = 0.0
    max_timestep: float = 1.0

    @classmethod
    def of(cls, config: RunConfig) -> DrawSettings:
        """Those of a run."""
        train = config.train
        return cls(
            seed=train.seed,
            resolution=config.data.resolution,
            caption_dropout=train.caption_dropout,
            random_tokens=train.random_tokens,
            noise_offset=train.noise_offset,
            input_perturbation=train.input_perturbation,
            max_timestep=config.filter.measured_share if config.filter.enabled else 1.0,
        )
