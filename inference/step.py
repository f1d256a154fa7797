"""One step of a sampler's trajectory, and what the conditional prediction is compared with at it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from memsieve.filtering.denoisers.base import Conditioning

__all__ = ["MEASURES", "SPACES", "Against", "Compared", "Seen", "Step", "norm_of"]

SPACES: Final = ("auto", "epsilon", "native")
MEASURES: Final = ("magnitude", "anchored_magnitude", "drift")
"""What is measured of a step; all but the first compare with the model before fine-tuning."""


@dataclass(slots=True)
class Step:
    """One step of a trajectory, before the scheduler moves on.

    ``model_input`` [B, ...] is what the network sees (the latents as the scheduler scales them), ``cond`` and
    ``uncond`` its predictions, float32, in the model's own parametrisation; a guidance-distilled model has no
    ``uncond``. ``base_cond`` and ``base_uncond`` are those of the model before fine-tuning at the same input, where
    they were asked for.
    """

    index: int
    timestep: Tensor
    model_input: Tensor
    cond: Tensor
    uncond: Tensor | None
    base_cond: Tensor | None = None
    base_uncond: Tensor | None = None

    def other(self, measure: str) -> Tensor:
        """What ``cond`` is compared with by one of ``MEASURES``.

        Raises:
            ValueError: it is not there.
        """
        if measure == "magnitude":
            if self.uncond is None:
                raise ValueError("magnitude: a guidance-distilled model has no unconditional prediction; take drift")
            return self.uncond
        found = self.base_cond if measure == "drift" else self.base_uncond
        if found is None:
            raise ValueError(f"{measure} compares with the model before fine-tuning, which was not asked")
        return found


@dataclass(frozen=True, slots=True)
class Against:
    """What the base is asked at each step of a trajectory: by its own conditioning of the prompts, [B] rows, and of no
    prompt; None where a branch is not asked for."""

    cond: Conditioning | None
    uncond: Conditioning | None

    def rows(self, kept: Tensor) -> Against:
        """Of some of the images."""
        return Against(*(part.rows(kept) if part is not None else None for part in (self.cond, self.uncond)))

    def expand(self, count: int) -> Against:
        """One prompt, ``count`` times."""
        return Against(*(part.expand(count) if part is not None else None for part in (self.cond, self.uncond)))


@dataclass(frozen=True, slots=True)
class Seen:
    """What the network saw at a step: its input [B, C, h, w], the timestep [], and both branches' conditioning."""

    model_input: Tensor
    timestep: Tensor
    cond: Conditioning
    uncond: Conditioning

    def rows(self, rows: Tensor | slice) -> Seen:
        """Of some of the images."""
        return Seen(self.model_input[rows], self.timestep, self.cond.rows(rows), self.uncond.rows(rows))


@dataclass(frozen=True, slots=True)
class Compared:
    """One of ``MEASURES`` at a step as a function of the conditioning alone.

    ``other`` [B, ...] is what the conditional prediction is compared with. It does not depend on the prompt's
    embedding: the model's own unconditional prediction, the base's, or what the base predicts for the prompt by its own
    encoding of it.
    """

    seen: Seen
    measure: str
    other: Tensor

    def rows(self, rows: Tensor | slice) -> Compared:
        """Of some of the images."""
        return Compared(self.seen.rows(rows), self.measure, self.other[rows])

    def at(self, embeddings: dict[str, Tensor]) -> Compared:
        """With other embeddings, by name."""
        return replace(self, seen=replace(self.seen, cond=self.seen.cond.with_embeddings(embeddings)))


def norm_of(delta: Tensor) -> Tensor:
    """L2 norm of each row, [B] float32."""
    return torch.linalg.vector_norm(delta.float().flatten(1), dim=1)
