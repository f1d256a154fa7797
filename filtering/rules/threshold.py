"""Rules that test each visit for itself: the paper's threshold, a z-score, a rank among held-out pairs."""

from __future__ import annotations

import math

from memsieve.filtering.rules.base import Reading, VisitRule
from memsieve.filtering.types import Divisor, Visit

__all__ = ["RankRule", "ThresholdRule", "ZScoreRule"]


class ThresholdRule(VisitRule):
    """Wen et al. (ICLR 2024, section 5): a visit whose signal exceeds tau, at whatever t, is dropped, and the loss is
    the mean over the others.

    Args:
        signal: its name.
        tau: in its units. The magnitude is a norm over all latent elements: tau fits one latent size.
    """

    name = "threshold"
    divides_by: Divisor = "kept"

    def __init__(self, signal: str, tau: float) -> None:
        super().__init__()
        self.signal, self.tau = signal, tau

    def exceeds(self, visit: Visit, reading: Reading) -> tuple[bool, float, float]:
        """By log(signal / tau), so that min(1, tau / m) is exp(-excess)."""
        value, tau = reading.values.get(self.signal, math.nan), self.tau
        ratio = math.log(value / tau) if value > 0.0 and tau > 0.0 else value - tau
        return value > tau, ratio, tau


class ZScoreRule(VisitRule):
    """A visit whose median / MAD z-score in its t-bin exceeds a bar, among held-out or, without them, training visits.

    Args:
        bar: z.
    """

    name = "z_score"
    learns_from_training = True

    def __init__(self, bar: float) -> None:
        super().__init__()
        self.bar = bar

    def exceeds(self, visit: Visit, reading: Reading) -> tuple[bool, float, float]:
        """By the score."""
        return reading.score > self.bar, reading.score - self.bar, self.bar


class RankRule(VisitRule):
    """A visit that ranks beyond all but a share ``rate`` of the held-out pairs' visits.

    Args:
        rate: of clean visits that may be dropped.
    """

    name = "rank"
    needs_held_out = True

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def exceeds(self, visit: Visit, reading: Reading) -> tuple[bool, float, float]:
        """By the conformal p-value."""
        p_value = reading.p_value
        excess = math.log(self.rate / p_value) if p_value > 0 else math.nan
        return p_value <= self.rate, excess, self.rate
