"""From what was read of one visit to its verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.sharing import Standing
from memsieve.filtering.policy import Finding, apply_policy
from memsieve.filtering.types import Action, Reason, Verdict, Visit

__all__ = ["Judge", "Reading"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one visit.

    ``values``: raw signals by name. ``score`` and ``p_value``: of this visit alone. ``usable``: it is evidence, and
    where it is not, ``unusable`` says why.
    """

    values: dict[str, float]
    timestep: int
    score: float
    p_value: float
    usable: bool
    unusable: Reason


class Judge:
    """Tests visits and applies the policy, one visit at a time."""

    def __init__(self, config: FilterConfig) -> None:
        self.config = config
        self.never, self.always = set(config.never_drop), set(config.always_drop)

    def verdict(
        self, visit: Visit, reading: Reading, standing: Standing | None, condemned: bool, bar: float
    ) -> Verdict:
        """The verdict on ``visit``, from its group's ``standing`` at the start of the window against ``bar``, or, with
        ``decide: visit``, from its own reading."""
        by_group = self.config.decide == "group"
        tested = self._by_group(standing, condemned, bar) if by_group else self._by_visit(reading)
        guilty, excess, reason, threshold = tested
        names = {visit.key, visit.group}
        if names & self.never:
            weight, action, reason = 1.0, Action.KEEP, Reason.NEVER_DROP
        elif names & self.always:
            weight, action, reason = 0.0, Action.DROP, Reason.ALWAYS_DROP
        else:
            trained = standing.trained if standing else 0
            weight, action, reason = apply_policy(self.config, Finding(guilty, excess, trained, reason))
            if action is Action.KEEP and not reading.usable:
                reason = reading.unusable
        known = by_group and standing is not None
        p_value = standing.p_value if known and standing and self.config.calibrator == "conformal" else reading.p_value
        return Verdict(
            visit,
            weight,
            action,
            reason,
            reading.timestep,
            reading.values,
            reading.score,
            p_value,
            standing.evidence if known and standing else math.nan,
            threshold,
        )

    def _by_group(self, standing: Standing | None, condemned: bool, bar: float) -> tuple[bool, float, Reason, float]:
        """(guilty, excess, reason, threshold)."""
        if standing is None:
            return False, math.nan, Reason.CLEAN, bar
        spared = not condemned and standing.level < self.config.spared_below
        return condemned, math.nan if spared else standing.evidence - bar, Reason.CONDEMNED, bar

    def _by_visit(self, reading: Reading) -> tuple[bool, float, Reason, float]:
        """(guilty, excess, reason, threshold)."""
        config = self.config
        if not reading.usable:
            return False, math.nan, Reason.CLEAN, math.nan
        if config.calibrator == "fixed":
            value, tau = reading.values.get(config.deciding[0], math.nan), float(config.threshold or 0.0)
            ratio = math.log(value / tau) if value > 0.0 and tau > 0.0 else value - tau
            return value > tau, ratio, Reason.THRESHOLD, tau
        if config.calibrator == "robust":
            bar = float(config.threshold or 0.0)
            return reading.score > bar, reading.score - bar, Reason.THRESHOLD, bar
        rate, p_value = config.false_drop_rate, reading.p_value
        excess = math.log(rate / p_value) if p_value > 0 else math.nan
        return p_value <= rate, excess, Reason.THRESHOLD, rate
