"""What passes between a training loop and the filter: what a batch reads, and what is decided about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from filtering.policy import KEPT_FLOOR
from filtering.verdict import Verdict

__all__ = ["Decision", "Measurement"]


@dataclass(slots=True)
class Measurement:
    """What one batch reads: raw signals (name -> [B] float32), timesteps [B], and which rows are evidence [B]."""

    signals: dict[str, torch.Tensor]
    timesteps: npt.NDArray[np.int64]
    usable: npt.NDArray[np.bool_]
    drawn: npt.NDArray[np.bool_] | None = None
    """Rows that the schedule had measured [B]; None where nothing was scheduled."""
    readable: npt.NDArray[np.bool_] | None = None
    """Rows whose signals mean something [B]: evidence, and beside it those beyond ``filter.max_timestep``; None where
    they are the same."""

    def says_something(self, row: int) -> bool:
        """Whether the signals of ``row`` mean something, evidence or not."""
        return bool((self.usable if self.readable is None else self.readable)[row])


@dataclass(slots=True)
class Decision:
    """Weights [B] (float32, on the losses' device) and the verdicts they come from."""

    weights: torch.Tensor
    verdicts: list[Verdict]
    normalize: str = "eligible"

    def reduce(self, losses: torch.Tensor) -> torch.Tensor:
        """Weighted mean of ``losses`` ([B] or [B, ...]) of one process and one batch; a scalar.

        Divides by B (``eligible``) or by the sum of weights (``kept``, the paper's). A dropped sample's loss never
        enters, not even as 0 * inf.
        """
        per_sample = losses.flatten(1).mean(1) if losses.ndim > 1 else losses
        weights = self.weights.to(per_sample.device)
        kept = torch.where(weights > 0, per_sample, torch.zeros_like(per_sample)) * weights
        count = weights.sum().clamp_min(KEPT_FLOOR) if self.normalize == "kept" else len(per_sample)
        return kept.sum() / count
