"""Who is condemned: the only part of the history that every rank holds, and the limits on how many may be."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPanel
from memsieve.filtering.evidence.sharing import gather_groups
from memsieve.filtering.evidence.table import EvidenceTable
from memsieve.filtering.exchange import Exchange

__all__ = ["Rulings"]


class Rulings:
    """Condemns groups, on all ranks alike.

    Attributes:
        condemned: condemned groups of all ranks and the step of each.
        latest: groups condemned at the end of the last window, for the loader's sieve.
        overfitting: the run was found to overfit as a whole.
    """

    def __init__(self, config: FilterConfig) -> None:
        self.config = config
        self.condemned: dict[str, int] = {}
        self.latest: list[str] = []
        self.overfitting = False
        self._told_spared = False

    def condemn(
        self,
        rows: npt.NDArray[np.int64],
        groups: EvidenceTable,
        panel: HeldOutPanel,
        exchange: Exchange,
        n_groups: int,
        step: int,
        note: Callable[[str], None] | None = None,
    ) -> None:
        """Condemn ``rows`` of all ranks, most evident first, up to ``max_drop_fraction`` of the ``n_groups`` seen."""
        if panel.ordinary.median > panel.bar():
            self._overfits(
                f"half of the {n_groups} groups have more evidence than the bar ({panel.bar():.1f}), and only those "
                "beyond the others are condemned",
                note,
            )
        if panel.spared > 0.5 and not self._told_spared:
            self._told_spared = True
            if note is not None:
                note(
                    f"{panel.spared:.0%} of the groups are denoised worse than most held-out pairs, and are spared; if "
                    "they are of another kind than those, hold out pairs like them (data.held_out_path) or let every "
                    "look count (filter.spare_above: null), in a new run"
                )
        already, passed = len(self.condemned), gather_groups(groups, exchange, rows)
        room = max(0, math.floor(self.config.max_drop_fraction * n_groups) - already)
        if len(passed) > room:
            self._overfits(
                f"{already + len(passed)} of {n_groups} groups pass the bar, more than filter.max_drop_fraction: "
                f"{self.config.max_drop_fraction}",
                note,
            )
        for name in passed[:room]:
            self.condemned[name] = step
            self.latest.append(name)
            if (row := groups.row(name)) >= 0:
                groups.condemn(row, step)

    def _overfits(self, why: str, note: Callable[[str], None] | None) -> None:
        self.overfitting = True
        if note is not None:
            note(
                f"{why}; the run is overfitting as a whole: stop earlier, lower the learning rate, or, in a new run, "
                "cap exposures (filter.policy: cap)"
            )
