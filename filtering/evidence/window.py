"""The visits of one window, gathered from all ranks into one order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from memsieve.filtering.evidence.sharing import NAME_NUMBERS, packed, unpacked
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.types import Verdict, Visit

__all__ = ["VisitRecord", "WindowVisits"]


@dataclass(frozen=True, slots=True)
class VisitRecord:
    """What the history keeps of one visit. ``signals``: what was measured to decide, a value for each of
    ``Calibrator.columns``. ``group`` is "" for padding and samples that could not be used. ``drawn``: the schedule had
    it measured."""

    group: str
    score: float
    magnitude: float
    weight: float
    timestep: int
    drawn: bool
    signals: list[float]

    @classmethod
    def of(cls, verdict: Verdict, drawn: bool, signals: list[float]) -> VisitRecord:
        """Of a visit that was decided."""
        magnitude = verdict.signals.get("magnitude", math.nan)
        group = verdict.visit.identity
        return cls(group, verdict.score, magnitude, verdict.weight, verdict.timestep, drawn, signals)

    @classmethod
    def of_nobody(cls, timestep: int, columns: int) -> VisitRecord:
        """Of a row that leaves no trace: without signals, or training visits would calibrate by what stands for it."""
        return cls("", math.nan, math.nan, 0.0, timestep, False, [math.nan] * columns)


class WindowVisits:
    """Collects a rank's visits, equally many on all ranks, until the window is closed."""

    def __init__(self) -> None:
        self._rows: list[tuple[tuple[int, int, int], VisitRecord]] = []

    def add(self, visit: Visit, record: VisitRecord) -> None:
        """What is kept of one visit, at the visit's position."""
        self._rows.append(((visit.stream, visit.epoch, visit.offset), record))

    def close(self, exchange: Exchange) -> list[VisitRecord]:
        """The visits of all ranks in the order of their positions, and start anew; one collective."""
        rows, self._rows = self._rows, []
        if not rows:
            return []
        if exchange.world_size == 1:  # names need not travel
            return [record for _, record in sorted(rows, key=lambda row: row[0])]
        numbers = np.array([_packed(position, record) for position, record in rows], dtype=np.float64)
        table = exchange.gather(torch.tensor(numbers)).tolist()
        return [_record(row) for row in sorted(table, key=lambda row: row[:3])]


def _packed(position: tuple[int, int, int], record: VisitRecord) -> list[float]:
    told = [record.score, record.magnitude, record.weight, float(record.timestep), float(record.drawn)]
    return [*position, *told, *packed(record.group), *record.signals]


def _record(row: Sequence[float]) -> VisitRecord:
    names = 8 + NAME_NUMBERS
    signals = list(row[names:])
    return VisitRecord(unpacked(row[8:names]), row[3], row[4], row[5], int(row[6]), bool(row[7]), signals)
