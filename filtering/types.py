"""What is decided about one visit of one sample, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Action", "Reason", "Verdict", "Visit"]


class Action(StrEnum):
    """What happens to a sample."""

    KEEP = "keep"
    DROP = "drop"
    REWEIGHT = "reweight"
    CAP = "cap"
    OBSERVE = "observe"
    CAPTION = "caption"
    FAILED = "failed"
    HELD_OUT = "held_out"


class Reason(StrEnum):
    """Why: the words that stand in the ledger."""

    CLEAN = "clean"
    NO_CAPTION = "caption dropped in this visit: no evidence"
    NOT_SCORED = "timestep beyond max_timestep: no evidence"
    NOT_DUE = "not due to be measured"
    THRESHOLD = "signal above the threshold"
    CONDEMNED = "evidence beyond the held-out groups'"
    SKIPPED = "condemned: skipped at the loader"
    CAPPED = "group has reached max_exposures"
    NEVER_DROP = "listed in never_drop"
    ALWAYS_DROP = "listed in always_drop"
    BAD_INPUT = "input is not finite"
    UNREADABLE = "sample could not be read"
    HELD_OUT = "group is held out for calibration"


@dataclass(frozen=True, slots=True)
class Visit:
    """Where a sample stands in the run: its names and the position it was read from."""

    key: str
    shard: str = ""
    index: int = -1
    group: str = ""
    caption: str = ""
    stream: int = 0
    epoch: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about one visit: weight in [0, 1], action and reason, and the numbers it rests on."""

    visit: Visit
    weight: float
    action: Action
    reason: Reason
    timestep: int = -1
    signals: dict[str, float] = field(default_factory=dict)
    score: float = float("nan")
    p_value: float = float("nan")
    evidence: float = float("nan")
    threshold: float = float("nan")
    error: str | None = None

    @property
    def margin(self) -> float:
        """Distance of the deciding number from its threshold; NaN where nothing was compared."""
        compared = self.evidence if self.evidence == self.evidence else self.score
        return compared - self.threshold
