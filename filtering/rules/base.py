"""What a rule is: it tests visits, and may condemn pairs for good.

A rule plugs in by this protocol: ``MemorizationFilter(config, rule=...)``. Rules that test each visit for itself derive
from ``VisitRule`` and give ``exceeds`` alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.evidence.sharing import Standing
from memsieve.filtering.evidence.table import EvidenceTable
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.types import Divisor, Measurement, Reason, Visit

__all__ = ["Finding", "Reading", "Rule", "VisitRule", "WindowEnd", "readings_of"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one visit.

    ``values``: raw signals by name. ``score`` and ``p_value``: of this visit alone, beside the pairs that calibrate.
    ``usable``: it is evidence, and where it is not, ``unusable`` says why.
    """

    values: dict[str, float]
    timestep: int
    score: float
    p_value: float
    usable: bool
    unusable: Reason


def readings_of(measurement: Measurement, scores: Array, p_values: Array) -> list[Reading]:
    """What was read of each row of a batch, from their ``scores`` [B] and ``p_values`` [B]; a value that means nothing
    at this t is left out."""
    host = {name: value.cpu().tolist() for name, value in measurement.signals.items()}
    readings = []
    for i, timestep in enumerate(measurement.timesteps):
        drawn = measurement.drawn is None or bool(measurement.drawn[i])
        values = {name: column[i] for name, column in host.items() if drawn and column[i] == column[i]}
        if not measurement.says_something(i):
            values = {name: value for name, value in values.items() if name in ("loss", "reference_ratio")}
        why = Reason.NOT_SCORED if measurement.says_something(i) else Reason.NO_CAPTION
        usable = bool(measurement.usable[i])
        score, p_value = float(scores[i]), float(p_values[i])
        readings.append(Reading(values, int(timestep), score, p_value, usable, why if drawn else Reason.NOT_DUE))
    return readings


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule says of one visit; what is done about it is the policy's.

    ``guilty``: the test has failed, for ``reason``. ``excess``: how far the deciding number lies beyond ``threshold``,
    in evidence, in z, or as the logarithm of a ratio; NaN where nothing was compared. ``p_value`` and ``evidence``: of
    the pair where the rule remembers it, else of the visit and NaN.
    """

    guilty: bool
    excess: float
    reason: Reason
    threshold: float
    p_value: float
    evidence: float = math.nan


@dataclass(frozen=True, slots=True)
class WindowEnd:
    """What a rule may look at when a window is closed.

    Attributes:
        groups: this rank's share of the pairs.
        measured: rows of those that were measured in the window.
        held_out: the held-out pairs, the same on all ranks.
        swept: every held-out pair has been scored once more.
        n_groups: pairs seen, on all ranks.
        step: windows closed so far.
        note: is told in words what a person should know.
    """

    groups: EvidenceTable
    measured: npt.NDArray[np.int64]
    held_out: HeldOutPairs
    exchange: Exchange
    swept: bool
    n_groups: int
    step: int
    note: Callable[[str], None] | None = None


class Rule(Protocol):
    """A rule, the same on all ranks.

    Attributes:
        name: whose state a checkpoint holds: another rule's is refused.
        remembers: pairs are tested, not visits: how each pair stands is looked up before a window.
        needs_held_out: without held-out pairs nobody fails the test.
        learns_from_training: without held-out pairs, training visits say what is ordinary.
        divides_by: the sum of weighted losses is divided by the number of ``eligible`` samples, so that a weight only
            removes gradient, or by the weights of those that are ``kept``, as in the paper.
        condemned: condemned pairs of all ranks and the step of each; every visit of theirs is found guilty.
        latest: pairs condemned at the end of the last window.
        overfitting: the run was found to overfit as a whole.
        spared: share of the pairs that are measured and not tested (``filter.spare_above``).
    """

    name: str
    remembers: bool
    needs_held_out: bool
    learns_from_training: bool
    divides_by: Divisor
    condemned: dict[str, int]
    latest: list[str]
    overfitting: bool
    spared: float

    def finding(self, visit: Visit, reading: Reading, standing: Standing | None) -> Finding:
        """What is found of one visit, from its ``reading``, or from how its pair stood before the window."""
        ...

    def learn(self, measurement: Measurement) -> None:
        """Called after each batch, once everything in it is decided."""
        ...

    def test_and_condemn(self, window: WindowEnd) -> None:
        """Called when a window is closed, on all ranks: who fails the test is condemned from the next window on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that later findings depend on, as tensors and plain values, by names that are not the filter's own
        (groups, step, ...): they are saved side by side."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        ...


class VisitRule(ABC):
    """A rule that tests each visit for itself, remembers nothing and condemns nobody."""

    name = ""
    """As of the class where it is left out."""
    remembers = False
    needs_held_out = False
    learns_from_training = False
    divides_by: Divisor = "eligible"
    overfitting = False
    spared = 0.0

    def __init__(self) -> None:
        self.name = self.name or type(self).__name__
        self.condemned: dict[str, int] = {}
        self.latest: list[str] = []

    @abstractmethod
    def exceeds(self, visit: Visit, reading: Reading) -> tuple[bool, float, float]:
        """(whether the visit fails the test, by how much, its threshold); asked of visits that are evidence."""

    def finding(self, visit: Visit, reading: Reading, standing: Standing | None) -> Finding:
        """By the reading alone."""
        if not reading.usable:
            return Finding(False, math.nan, Reason.CLEAN, math.nan, reading.p_value)
        guilty, excess, threshold = self.exceeds(visit, reading)
        return Finding(guilty, excess, Reason.THRESHOLD, threshold, reading.p_value)

    def learn(self, measurement: Measurement) -> None:  # noqa: B027 (a rule overrides what it needs)
        """Nothing."""

    def test_and_condemn(self, window: WindowEnd) -> None:  # noqa: B027 (a rule overrides what it needs)
        """Nobody."""

    def state_dict(self) -> dict[str, Any]:
        """As of a rule that has condemned nobody."""
        return {"condemned": {}, "overfitting": False}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (a rule overrides what it needs)
        """Nothing to restore."""
