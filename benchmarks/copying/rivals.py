"""Rivals of the filter that decide visit by visit, as rules of the filter: they stand where its own rule stands."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np
import torch

from memsieve.filtering.data.draws import row_generator
from memsieve.filtering.evidence.sharing import Standing
from memsieve.filtering.rules import Finding, Reading, VisitRule
from memsieve.filtering.types import Divisor, Measurement, Reason, Visit

__all__ = ["LossBelowAverage", "RandomDrop", "Rival"]


class Rival(VisitRule):
    """Drops a visit whose ``margin`` is above 0, whether its caption was dropped or not."""

    @abstractmethod
    def margin(self, visit: Visit, loss: float, timestep: int) -> float:
        """Above 0: the visit is dropped."""

    def exceeds(self, visit: Visit, reading: Reading) -> tuple[bool, float, float]:
        """By the margin."""
        margin = self.margin(visit, reading.values["loss"], reading.timestep)
        return margin > 0.0, margin if math.isfinite(margin) else math.nan, 0.0

    def finding(self, visit: Visit, reading: Reading, standing: Standing | None) -> Finding:
        """Of every visit, evidence or not; the margin is what the ledger has as evidence."""
        guilty, excess, threshold = self.exceeds(visit, reading)
        return Finding(guilty, excess, Reason.THRESHOLD, threshold, reading.p_value, evidence=excess)


class LossBelowAverage(Rival):
    """IET-AGC's rule (Liu et al., ECCV 2024) without its sharding: skip a sample where loss * ratio < average[t], an
    exponential average of the losses at that timestep, which starts at 0 and takes in skipped samples too.

    Args:
        ratio: 1.25 in the authors' code for Stable Diffusion.
        decay: 0.8 there.
    """

    divides_by: Divisor = "kept"

    def __init__(self, ratio: float = 1.25, decay: float = 0.8, timesteps: int = 1000) -> None:
        super().__init__()
        self.ratio, self.decay = ratio, decay
        self.average = np.zeros(timesteps)

    def margin(self, visit: Visit, loss: float, timestep: int) -> float:
        average = float(self.average[timestep])
        return math.log(average / (loss * self.ratio)) if average > 0.0 and loss > 0.0 else -math.inf

    def learn(self, measurement: Measurement) -> None:
        losses = measurement.signals["loss"].cpu().tolist()
        for loss, timestep in zip(losses, measurement.timesteps.tolist(), strict=True):
            self.average[timestep] = self.decay * self.average[timestep] + (1.0 - self.decay) * loss

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "average": torch.from_numpy(self.average.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average = state["average"].numpy().copy()


class RandomDrop(Rival):
    """Drops a visit with probability ``rate``, by its position."""

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__()
        self.rate, self.seed = rate, seed

    def margin(self, visit: Visit, loss: float, timestep: int) -> float:
        place = (visit.stream, visit.epoch, visit.offset)
        return self.rate - float(row_generator(self.seed, *place, purpose="random drop").random())
