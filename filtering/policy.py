"""From a finding to a verdict: what is done about a visit that fails its test, and who is exempt."""

from __future__ import annotations

import math
from collections.abc import Container

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.sharing import Standing
from memsieve.filtering.rules.base import Finding, Reading
from memsieve.filtering.types import KEPT_FLOOR, Action, Reason, Verdict, Visit

__all__ = ["Policy"]

Outcome = tuple[float, Action, Reason]


class Policy:
    """Weight in [0, 1], action and reason of each visit.

    Args:
        config: the settings; ``never_drop`` and ``always_drop`` overrule every finding.
    """

    def __init__(self, config: FilterConfig) -> None:
        self.config = config
        self.never, self.always = set(config.never_drop), set(config.always_drop)

    def verdict(self, visit: Visit, reading: Reading, finding: Finding, standing: Standing | None) -> Verdict:
        """The verdict on ``visit``; ``standing`` is what was known of its group before the window."""
        names = {visit.key, visit.group}
        if names & self.never:
            weight, action, reason = 1.0, Action.KEEP, Reason.NEVER_DROP
        elif names & self.always:
            weight, action, reason = 0.0, Action.DROP, Reason.ALWAYS_DROP
        else:
            weight, action, reason = self._outcome(finding, standing.trained if standing else 0)
            if action is Action.KEEP and not reading.usable:
                reason = reading.unusable
        return Verdict(
            visit, weight, action, reason, reading.timestep, reading.values, reading.score, finding.p_value,
            finding.evidence, finding.threshold,
        )  # fmt: skip

    def takes_caption(self, visit: Visit, condemned: dict[str, int]) -> bool:
        """Whether ``visit`` is to be trained without its caption (``policy: caption``, its group is condemned)."""
        if self.config.policy != "caption" or {visit.key, visit.group} & self.never:
            return False
        return visit.identity in condemned

    def settles(self, visit: Visit, condemned: Container[str], standing: Standing | None) -> bool:
        """Whether ``visit`` has weight 0 before anything is read of it. A weight that goes by evidence never does:
        what is not measured would stay as it is."""
        names = {visit.key, visit.group}
        if names & self.never:
            return False
        if names & self.always:
            return True
        if self.config.policy == "cap":
            return standing is not None and standing.trained >= self.config.max_exposures
        return self.config.policy in ("drop", "retire") and visit.identity in condemned

    def _outcome(self, finding: Finding, trained: int) -> Outcome:
        config = self.config
        if config.policy == "cap":
            if trained >= config.max_exposures:
                return 0.0, Action.CAP, Reason.CAPPED
            return 1.0, Action.KEEP, Reason.CLEAN
        if config.policy == "reweight":
            return self._reweighted(finding)
        if not finding.guilty:
            return 1.0, Action.KEEP, Reason.CLEAN
        if config.policy == "observe":
            return 1.0, Action.OBSERVE, finding.reason
        if config.policy == "caption":
            return 1.0, Action.CAPTION, finding.reason
        if config.policy == "retire":
            return 0.0, Action.RETIRE, finding.reason
        return 0.0, Action.DROP, finding.reason

    def _reweighted(self, finding: Finding) -> Outcome:
        """w = exp(-max(0, excess)): 1 up to the threshold, then falling without a cliff.

        For the raw magnitude, excess = log(m / tau), so that this is min(1, tau / m).
        """
        if not math.isfinite(finding.excess) or finding.excess <= 0.0:
            return 1.0, Action.KEEP, Reason.CLEAN
        weight = math.exp(-finding.excess)
        if weight < KEPT_FLOOR:
            return 0.0, Action.DROP, finding.reason
        return weight, Action.REWEIGHT, finding.reason
