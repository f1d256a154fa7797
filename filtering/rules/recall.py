"""Where a pair is retired: its caption brings its own picture back, oftener than a person allows.

An absolute question, for small sets: where every pair is learned by heart in the end, nobody stands out from the
others. Drawings are made beside the training (``memsieve.train.recall``) and noted in ``RecallRule.evidence``, the same
on all ranks; the rule tests pairs when a window is closed.
"""

from __future__ import annotations

import math
from typing import Any, Final

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.recall import RecallEvidence
from memsieve.filtering.evidence.sharing import Standing
from memsieve.filtering.rules.base import Finding, Reading, WindowEnd
from memsieve.filtering.types import Divisor, Measurement, Reason, Visit

__all__ = ["RecallRule"]

PATIENCE: Final = 100
"""Windows without a drawing after which the rule says that nobody asks the model."""


class RecallRule:
    """Condemns pairs that come back; with ``policy: retire`` they return when they are forgotten. See ``Rule`` for the
    other attributes.

    Args:
        config: the settings.

    Attributes:
        evidence: what drawings came to.
        copies: pairs come back, beyond chance.
        returned: pairs that are trained on again since the last window.
    """

    name = "recall"
    remembers = True
    needs_held_out = False
    learns_from_training = False
    divides_by: Divisor = "eligible"
    overfitting = False
    spared = 0.0

    def __init__(self, config: FilterConfig) -> None:
        self.config = config
        self.evidence = RecallEvidence(config.copy_rate)
        self.condemned: dict[str, int] = {}
        self.latest: list[str] = []
        self.returned: list[str] = []
        self.copies = False
        self._tested = 0

    @property
    def share_trained(self) -> float:
        """Share of the known pairs that are not condemned; 1 before any is known."""
        known = len(self.evidence.groups)
        return 1.0 - len(self.condemned) / known if known else 1.0

    def finding(self, visit: Visit, reading: Reading, standing: Standing | None) -> Finding:
        """Guilty where the pair was condemned before this window."""
        group, bar = visit.identity, self.evidence.bar_of(visit.identity)
        recall = self.evidence.recall(group)
        if recall == recall:
            reading.values["recall"] = recall  # the ledger has it beside what was measured of the visit
        p_value = self.evidence.p_value(group) if recall == recall else math.nan
        return Finding(group in self.condemned, recall - bar, Reason.RECALLED, bar, p_value, recall)

    def learn(self, measurement: Measurement) -> None:
        """Nothing: what a visit reads does not tell which pairs come back."""

    def test_and_condemn(self, window: WindowEnd) -> None:
        """After a round of drawings, condemn the pairs that come back, and let those return that are forgotten."""
        self.latest, self.returned = [], []
        if self.evidence.rounds == self._tested:
            if not self._tested and window.step == PATIENCE and window.note is not None:
                window.note(
                    "filter.rule: recall retires pairs by drawings of their captions, and none was noted in "
                    f"{PATIENCE} windows: note them with filter.rule.evidence.add, or set another rule"
                )
            return
        self._tested = self.evidence.rounds
        reached = [group for group in self.evidence.groups if self.evidence.reached(group)]
        for group in reached:
            if group not in self.condemned:
                self._set(group, window.step, window)
        if self.config.policy == "retire":
            for group in [one for one in self.condemned if self.evidence.forgotten(one)]:
                self._set(group, -1, window)
        self._write(window)
        self._say_copies(window)

    @property
    def bar(self) -> float:
        """The margin beyond which a drawing comes back."""
        return self.evidence.bar

    def _write(self, window: WindowEnd) -> None:
        """Each pair's signal into the history, where reports look for evidence."""
        groups = window.groups
        for group in self.evidence.groups:
            row, recall = groups.row(group), self.evidence.recall(group)
            if row >= 0 and recall == recall:
                groups["evidence"][row] = recall
                groups["evidence_max"][row] = max(recall, float(groups["evidence_max"][row]))
                groups["p_value"][row] = self.evidence.p_value(group)

    def _set(self, group: str, step: int, window: WindowEnd) -> None:
        """Condemned at ``step``, or, with -1, no more; on all ranks, of which one holds the pair."""
        if step < 0:
            del self.condemned[group]
            self.returned.append(group)
        else:
            self.condemned[group] = step
            self.latest.append(group)
        if (row := window.groups.row(group)) >= 0:
            window.groups.condemn(row, step)

    def _say_copies(self, window: WindowEnd) -> None:
        if self.copies or not (found := self.evidence.copies()):
            return
        self.copies = True
        if window.note is None:
            return
        acts = "are trained on no more" if self.config.policy == "retire" else f"filter.policy: {self.config.policy}"
        chance = self.evidence.chance(found[0])
        window.note(
            f"copies: at step {window.step} {len(found)} of {len(self.evidence.groups)} pairs come back as their own "
            f"picture when their caption is drawn (the first in {chance.hits} of {chance.drawings} drawings, at least "
            f"{chance.low:.0%} of them; filter.copy_rate allows {self.config.copy_rate:g}); such pairs {acts}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Who is condemned since when, and every drawing that counts."""
        return {
            "condemned": dict(self.condemned),
            "overfitting": False,
            "recall": self.evidence.state_dict(),
            "copies": self.copies,
            "tested": self._tested,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        self.condemned = {str(name): int(step) for name, step in state["condemned"].items()}
        self.evidence.load_state_dict(state["recall"])
        self.copies, self._tested = bool(state["copies"]), int(state["tested"])
