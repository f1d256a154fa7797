"""Which visits are measured when the filter works at the loader, and what that may cost.

Repetition drives memorisation, so the budget goes where exposures are: a group on its first visits costs nothing,
then it is measured until it is decided, and the longer it stays clean the more rarely. Ranks plan the whole window of
all ranks alike, so that they run equally many forwards of one shape.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.sharing import Standing
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.signals import required_passes
from memsieve.filtering.types import Visit

__all__ = ["TRAINING_COST", "Candidate", "Schedule", "WindowPlan", "candidates_of"]

TRAINING_COST: Final = 3.0
"""Forward and backward of a sample, in forwards."""
SCORE_AFTER: Final[int] = 2
"""Visits of a group before it is measured at all: most groups of a large set come no oftener, and nothing is memorised
by then."""
BUDGET: Final = 0.08
FREE_BUDGET: Final = 0.012
"""``score_budget`` where nothing is set, and where measured training visits take no forward."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A visit of a window as the schedule sees it. ``eligible``: it would be evidence if it were measured."""

    position: tuple[int, int, int]
    group: str
    eligible: bool
    standing: Standing | None
    condemned: bool

    @property
    def drawn(self) -> int:
        """Measured visits of the group so far: the number of its next draw."""
        return self.standing.drawn if self.standing is not None else 0


def candidates_of(
    visits: Sequence[Visit],
    eligible: Sequence[bool],
    everyone: Sequence[tuple[str, Standing | None]],
    condemned: Container[str],
    exchange: Exchange,
) -> list[Candidate]:
    """The candidates of all ranks, in rank order: this rank's ``visits`` and what they are ``eligible`` for are told to
    the others; one collective.

    Args:
        visits: this rank's, equally many on all ranks.
        eligible: which of them would be evidence.
        everyone: the groups of all ranks' visits and how they stand.
        condemned: groups that are condemned.
        exchange: tells the others.
    """
    told = [[visit.stream, visit.epoch, visit.offset, ok] for visit, ok in zip(visits, eligible, strict=True)]
    places = exchange.gather(torch.tensor(told, dtype=torch.float64)).tolist()
    return [
        Candidate((int(s), int(e), int(o)), group, bool(ok), standing, group in condemned)
        for (s, e, o, ok), (group, standing) in zip(places, everyone, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """What is measured of one rank's window.

    Attributes:
        visits: per row, the number of the draw that it is measured at; -1 where it is not measured.
        paid: per row, whether that takes extra forwards.
        forwards: per batch, whether extra forwards are run: on all ranks or on none.
        shape: rows of an extra forward.
    """

    visits: list[int]
    paid: list[bool]
    forwards: list[bool]
    shape: int


class Schedule:
    """Plans windows.

    Args:
        audited: draws per pair that the reference can be looked up for; None without such a reference.
    """

    def __init__(self, config: FilterConfig, audited: int | None = None) -> None:
        self.config, self.audited = config, audited
        self.copies = audited is None or config.beyond == "frozen"
        needed = required_passes(config.measured)
        self._always = "uncond" in needed or audited is None
        self.passes = len(needed if self.copies else needed & {"uncond"})
        """Extra forwards that a measured visit takes, at most."""
        self.budget = config.score_budget or (BUDGET if self.passes else FREE_BUDGET)
        self.warmup = 0
        """Windows before the first comparison: nobody can be condemned yet, and the budget is the held-out pairs'."""

    @property
    def _share(self) -> float:
        """Of the budget, for training visits; the rest measures held-out pairs."""
        return 0.5 if self.passes else 0.0

    def room(self, batch_size: int, step: int) -> tuple[int, int]:
        """(rows of a batch that may be measured by extra forwards in this window, rows of such a forward).

        Where the budget is less than a row a window, a row is measured every so many windows.
        """
        if not self.passes:
            return batch_size, batch_size
        warming = step < self.warmup
        rows = self.budget * self._share * TRAINING_COST * batch_size / self.passes
        shape = min(batch_size, max(1, math.floor(rows)))
        every = max(1, math.ceil(1.0 / rows - 1e-9))
        return (0 if warming or step % every else shape), shape

    def calibration_interval(self, window_rows: int, held_out: int, forwards: int, warming: bool = False) -> int:
        """Windows from one measurement of ``held_out`` held-out pairs, by ``forwards`` each, to the next.

        ``window_rows`` is what one rank trains on in a window.
        """
        share = 0.0 if warming else self._share
        budget = self.budget * (1.0 - share) * TRAINING_COST * window_rows
        return max(1, math.ceil(held_out * forwards / budget - 1e-9))

    def is_due(self, candidate: Candidate) -> bool:
        """Whether a visit is worth measuring: its group has come often enough, and not been measured lately.

        A clean group's gap grows as (its p-value) x (its measured visits): a suspicious one is measured at every
        visit, an ordinary one ever more rarely.
        """
        standing = candidate.standing
        if not candidate.group or not candidate.eligible or candidate.condemned:
            return False
        if self.audited is not None and not self.copies and candidate.drawn >= self.audited:
            return False
        if standing is None:
            return SCORE_AFTER == 0
        if standing.exposures < SCORE_AFTER:
            return False
        gap = 1 + math.floor(standing.p_value * standing.drawn) if standing.compared else 1
        return standing.drawn == 0 or standing.exposures + 1 - standing.last_drawn >= gap

    def plan(self, candidates: Sequence[Candidate], rank: int, rows: int, batch_size: int, step: int) -> WindowPlan:
        """The plan of ``rank``, from the candidates of all ranks, ``rows`` each, in rank order.

        A group is measured once a window: its copies there would share a draw. The most suspected come first.
        """
        room, shape = self.room(batch_size, step)
        due = [i for i, candidate in enumerate(candidates) if self.is_due(candidate)]
        visits, paid = [-1] * len(candidates), [False] * len(candidates)
        used: Counter[int] = Counter()
        taken: set[str] = set()
        for i in sorted(due, key=lambda i: _urgency(candidates[i])):
            candidate, batch = candidates[i], i // batch_size
            costs = self.passes > 0 and (self._always or candidate.drawn >= (self.audited or 0))
            if candidate.group in taken or (costs and used[batch] >= room):
                continue
            taken.add(candidate.group)
            used[batch] += costs
            visits[i], paid[i] = candidate.drawn, costs
        batches, mine = rows // batch_size, slice(rank * rows, (rank + 1) * rows)
        forwards = [any(count for b, count in used.items() if b % batches == k) for k in range(batches)]
        return WindowPlan(visits[mine], paid[mine], forwards, shape)


def _urgency(candidate: Candidate) -> tuple[float, int, tuple[int, int, int]]:
    standing = candidate.standing
    p_value = standing.p_value if standing is not None else 1.0
    waited = standing.exposures - standing.last_drawn if standing is not None else 0
    return p_value, -waited, candidate.position
