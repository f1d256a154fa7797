"""What a closed window adds to the history: the visits of this rank's groups."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from memsieve.filtering.evidence.calibration import Calibrator
from memsieve.filtering.evidence.sharing import owner
from memsieve.filtering.evidence.table import EvidenceTable
from memsieve.filtering.evidence.window import VisitRecord
from memsieve.filtering.exchange import Exchange

__all__ = ["measured_of", "remember"]

Rows = npt.NDArray[np.int64]


def remember(
    records: Sequence[VisitRecord],
    groups: EvidenceTable,
    calibrator: Calibrator,
    exchange: Exchange,
    step: int,
    sweep: int,
) -> Rows:
    """Add the visits of this rank's groups to ``groups``; the rows of those that were measured.

    Args:
        records: the visits of all ranks, in the order of their positions.
        groups: this rank's share of the pairs.
        calibrator: says how a loss lies among the held-out pairs'.
        exchange: says which rank this is.
        step: windows closed before.
        sweep: sweeps over the held-out pairs that are complete.
    """
    rank, ranks = exchange.rank, exchange.world_size
    mine = [record for record in records if record.group and owner(record.group, ranks) == rank]
    scores, magnitudes = np.array([r.score for r in mine]), np.array([r.magnitude for r in mine])
    levels = calibrator.levels(*measured_of(mine, calibrator))
    groups.observe([r.group for r in mine], scores, magnitudes, step, sweep, levels)
    for record in mine:
        row = groups.row(record.group)
        groups["trained" if record.weight > 0 else "dropped"][row] += 1
        if record.drawn:
            groups.note_drawn(record.group)
    measured = {record.group: None for record in mine if math.isfinite(record.score)}
    return np.array([groups.row(name) for name in measured], dtype=np.int64)


def measured_of(records: Sequence[VisitRecord], calibrator: Calibrator) -> tuple[npt.NDArray[np.float64], Rows]:
    """What was measured of visits, [N, C] with C of ``calibrator.columns``, and their timesteps, [N]."""
    evidence = np.array([record.signals for record in records], dtype=np.float64)
    timesteps = np.array([record.timestep for record in records], dtype=np.int64)
    return evidence.reshape(-1, len(calibrator.columns)), timesteps
