"""Where a pair is condemned: evidence of its visits adds up, and is compared with what held-out pairs come to.

Evidence is compared after each window for the pairs that it measured, and, when every held-out pair has been scored
once more, for all: what clean pairs come to is learned anew then. Who passes the bar is condemned at once, on all ranks
alike, and stays condemned.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.evidence.null import ordinary_of
from memsieve.filtering.evidence.sharing import Standing, gather_groups
from memsieve.filtering.evidence.table import EvidenceTable
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.rules.base import Finding, Reading, WindowEnd
from memsieve.filtering.types import Divisor, Measurement, Reason, Visit

__all__ = ["EvidenceRule"]

Rows = npt.NDArray[np.int64]
NOBODY = np.zeros(0, dtype=np.int64)


class EvidenceRule:
    """Condemns pairs whose running maximum of evidence ranks beyond a share ``false_drop_rate`` of what clean pairs
    come to in a whole life. See ``Rule`` for the attributes.

    Args:
        config: the settings.
        held_out: the held-out pairs, which say what clean pairs come to.
    """

    name = "evidence"
    remembers = True
    needs_held_out = True
    learns_from_training = False
    divides_by: Divisor = "eligible"

    def __init__(self, config: FilterConfig, held_out: HeldOutPairs) -> None:
        self.config, self.held_out = config, held_out
        self.condemned: dict[str, int] = {}
        self.latest: list[str] = []
        self.overfitting = False
        self.spared = 0.0
        self._told_spared = False

    def finding(self, visit: Visit, reading: Reading, standing: Standing | None) -> Finding:
        """Guilty where the pair was condemned before this window."""
        pace = standing.scored / max(self.held_out.sweep, 1) if standing is not None else 1.0
        bar, condemned = self.held_out.bar(pace), visit.identity in self.condemned
        if standing is None:
            return Finding(condemned, math.nan, Reason.CONDEMNED if condemned else Reason.CLEAN, bar, reading.p_value)
        spared = not condemned and standing.level < self.config.spared_below
        excess = math.nan if spared else standing.evidence - bar
        return Finding(condemned, excess, Reason.CONDEMNED, bar, standing.p_value, standing.evidence)

    def learn(self, measurement: Measurement) -> None:
        """Nothing: what was measured is in the history when the window is closed."""

    def test_and_condemn(self, window: WindowEnd) -> None:
        """Test the pairs that were measured, or after a sweep all, and condemn those that pass the bar."""
        self.latest = []
        passed = NOBODY
        if window.swept:
            passed = self._test_all(window)
        elif self.held_out.ready:
            passed = self._test(window.groups, window.measured)
        (guilty,) = window.exchange.sum([len(passed)])
        if window.swept or guilty:  # on all ranks or on none
            self._condemn(passed, window)

    def _test_all(self, window: WindowEnd) -> Rows:
        """Learn anew what clean and ordinary pairs come to, and test all pairs: the rows that pass the bar."""
        groups, exchange, held_out = window.groups, window.exchange, self.held_out
        if held_out.sweep < groups.first:
            return NOBODY
        clean = held_out.look()
        often = groups["exposures"] >= groups.first
        # also those measured too little to be compared: a schedule measures suspicious groups first
        rows = np.flatnonzero(often & (groups["w1"] > 0))  # of millions, most may not have come round yet
        known = groups.means_now(*held_out.spread, rows)
        below = float((groups.level(rows) < self.config.spared_below).sum())
        spared, measured = exchange.sum([below, float(len(rows))])
        self.spared = spared / max(measured, 1.0)
        held_out.ordinary = ordinary_of(known, clean, exchange, int(often.sum()), int((~often).sum()))
        held_out.draw_lives(self._fastest(groups, exchange))
        return self._test(groups, rows)

    def _test(self, groups: EvidenceTable, rows: Rows) -> Rows:
        """Those of the ``rows`` that pass the bar and were not condemned before.

        A spared pair's p-value is the rank of its present evidence: it is measured as that deserves, and the look is
        not kept.
        """
        rows = rows[(groups["scored"][rows] >= groups.first) & (groups["w1"][rows] > 0)]
        now = groups.means_now(*self.held_out.spread, rows)
        evidence = self.held_out.ordinary(now.evidence, now.spreads)
        spared = groups.level(rows) < self.config.spared_below
        groups.look(evidence, rows, spared)
        maxima = np.where(spared, evidence, groups["evidence_max"][rows])
        p_values = self.held_out.p_values(maxima, groups.visits_a_sweep(self.held_out.sweep, rows))
        groups["p_value"][rows] = p_values
        passed = (p_values <= self.held_out.rate) & ~spared & (groups["condemned_step"][rows] < 0)
        return rows[passed]

    def _fastest(self, groups: EvidenceTable, exchange: Exchange) -> float:
        """Visits a sweep of the pair of all ranks that has most, condemned ones apart."""
        mine = groups.visits_a_sweep(self.held_out.sweep)[groups["condemned_step"] < 0]
        return float(exchange.gather(torch.tensor([[mine.max(initial=0.0)]], dtype=torch.float64)).max())

    def _condemn(self, rows: Rows, window: WindowEnd) -> None:
        """Condemn ``rows`` of all ranks, most evident first, up to ``max_drop_fraction`` of the pairs seen."""
        self._say_what_stands_out(window)
        already, passed = len(self.condemned), gather_groups(window.groups, window.exchange, rows)
        room = max(0, math.floor(self.config.max_drop_fraction * window.n_groups) - already)
        if len(passed) > room:
            self._overfits(
                f"{already + len(passed)} of {window.n_groups} groups pass the bar, more than "
                f"filter.max_drop_fraction: {self.config.max_drop_fraction}",
                window,
            )
        for name in passed[:room]:
            self.condemned[name] = window.step
            self.latest.append(name)
            if (row := window.groups.row(name)) >= 0:
                window.groups.condemn(row, window.step)

    def _say_what_stands_out(self, window: WindowEnd) -> None:
        bar = self.held_out.bar()
        if self.held_out.ordinary.median > bar:
            self._overfits(
                f"half of the {window.n_groups} groups have more evidence than the bar ({bar:.1f}), and only those "
                "beyond the others are condemned",
                window,
            )
        if self.spared > 0.5 and not self._told_spared:
            self._told_spared = True
            if window.note is not None:
                window.note(
                    f"{self.spared:.0%} of the groups are denoised worse than most held-out pairs, and are spared; if "
                    "they are of another kind than those, hold out pairs like them (data.held_out_path) or let every "
                    "look count (filter.spare_above: null), in a new run"
                )

    def _overfits(self, why: str, window: WindowEnd) -> None:
        self.overfitting = True
        if window.note is not None:
            window.note(
                f"{why}; the run is overfitting as a whole: stop earlier, lower the learning rate, or, in a new run, "
                "cap exposures (filter.policy: cap)"
            )

    def state_dict(self) -> dict[str, Any]:
        """Who is condemned since when; the evidence itself is the filter's."""
        return {"condemned": dict(self.condemned), "overfitting": self.overfitting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        self.condemned = {str(name): int(step) for name, step in state["condemned"].items()}
        self.overfitting = bool(state["overfitting"])
