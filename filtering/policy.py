"""From a failed test to a weight: what each policy does about a pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.types import Action, Reason

__all__ = ["KEPT_FLOOR", "Finding", "apply_policy"]

KEPT_FLOOR: Final = 1e-3
"""A smaller weight is none: so a window's weights sum to 0 or to at least this, and gradients that were accumulated in
a window without weights are exactly 0, whichever engine holds them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one visit when its weight is decided.

    ``guilty``: the test has failed. ``excess``: how far the deciding number lies beyond its threshold, in the units
    that ``softness`` is stated in; NaN where nothing was compared. ``trained``: times the group was trained on.
    """

    guilty: bool
    excess: float
    trained: int
    reason: Reason


def apply_policy(config: FilterConfig, finding: Finding) -> tuple[float, Action, Reason]:
    """Weight in [0, 1], action and reason of one visit."""
    if config.policy == "cap":
        if finding.trained >= config.max_exposures:
            return 0.0, Action.CAP, Reason.CAPPED
        return 1.0, Action.KEEP, Reason.CLEAN
    if config.policy == "reweight":
        return _soft(config, finding)
    if not finding.guilty:
        return 1.0, Action.KEEP, Reason.CLEAN
    if config.policy == "observe":
        return 1.0, Action.OBSERVE, finding.reason
    if config.policy == "caption":
        return 1.0, Action.CAPTION, finding.reason
    return 0.0, Action.DROP, finding.reason


def _soft(config: FilterConfig, finding: Finding) -> tuple[float, Action, Reason]:
    """w = exp(-max(0, excess) / softness): 1 up to the threshold, then falling without a cliff.

    For the raw magnitude, excess = log(m / tau), so with softness 1 this is min(1, tau / m).
    """
    if not math.isfinite(finding.excess) or finding.excess <= 0.0:
        return 1.0, Action.KEEP, Reason.CLEAN
    weight = math.exp(-finding.excess / config.softness)
    if weight < KEPT_FLOOR:
        return 0.0, Action.DROP, finding.reason
    return weight, Action.REWEIGHT, finding.reason
