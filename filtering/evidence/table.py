"""Evidence per group over visits, and when it is enough.

One (t, eps) is a noisy test; a decision is about a pair. A group's evidence is the discounted mean of its visits'
scores, in units of what such a mean spreads over clean pairs:

    T = mean / sqrt(tau^2 + sigma^2 * w2 / w1^2),   w1 = sum of discounts, w2 = sum of squared discounts,

where sigma^2 is the variance of visits within a clean pair and tau^2 that between clean pairs (some images are simply
easy), both estimated from held-out pairs. Without tau^2 a pair that is read often would be condemned for being easy.

A visit's weight halves with the visits that follow it: exposures drive memorisation, so a pair's last visits say most
about it, whenever they were, and what it looked like before it was learned must not dilute them.

Evidence is compared after each measured visit. To rank a running maximum anew at every look among maxima *so far*
would be one test a look: a pair that leads early is condemned although clean pairs come that far later. So it is ranked
among the maxima that clean pairs reach over a whole life, paths drawn from the held-out groups' means and residuals.
The clock of a life is the *sweep*: every held-out group has been scored once more. A path has one visit a sweep, or
two, up to sixteen, and a group is ranked among paths with at least as many as it has; measured more rarely, it goes
through a beginning of such a path. So the false-drop rate holds per pair over its whole life, not per visit and not
per look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from memsieve.filtering.evidence.key_index import Names
from memsieve.filtering.evidence.null import Means

__all__ = ["EvidenceTable", "Life", "spread_of_clean_pairs", "whole_life_maxima"]

Array = npt.NDArray[np.float64]
Rows = slice | npt.NDArray[np.int64]
ALL: Final = slice(None)
PATHS: Final = 32
"""Drawn paths a held-out pair, those of earlier looks included."""
HALF_LIFE: Final = 8.0
"""Measured visits of a group in which its evidence halves; while it is condemned, sweeps over the held-out pairs."""
MIN_SWEEPS: Final = 3
"""Sweeps over the held-out pairs, and measured visits of a group, before it can be condemned: one visit's noise is as
large as what three exposures teach."""
_FLOATS: Final = ("sum", "w1", "w2", "evidence", "evidence_max", "p_value", "magnitude_sum", "level_sum")  # fmt: skip
_INTS: Final = ("exposures", "trained", "scored", "dropped", "first_step", "last_step", "last_sweep", "condemned_step",
    "drawn", "last_drawn")  # fmt: skip


class EvidenceTable:
    """One row per group, in columns; 104 bytes of numbers a group besides its name (see ``Names``).

    Args:
        half_life: later measured visits after which a visit counts half; of a condemned group, sweeps.
        first: measured visits before which a group is not compared.
    """

    def __init__(self, half_life: float, first: int = 1) -> None:
        self.half_life, self.first = half_life, first
        self.names = Names()
        self.columns: dict[str, npt.NDArray[Any]] = {name: np.zeros(0) for name in _FLOATS}
        self.columns |= {name: np.zeros(0, dtype=np.int32) for name in _INTS}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        """One column, a view of the rows in use."""
        return self.columns[column][: len(self.names)]

    def row(self, group: str) -> int:
        """Row of ``group``; -1 where it was never seen."""
        return self.names.row(group)

    def rows(self, groups: list[str], step: int) -> npt.NDArray[np.int64]:
        """Rows of ``groups``, new ones added."""
        rows = np.zeros(len(groups), dtype=np.int64)
        for i, group in enumerate(groups):
            known = len(self.names)
            rows[i] = row = self.names.add(group)
            if row == known:
                self._grow()
                self.columns["condemned_step"][row] = -1
                self.columns["first_step"][row] = step
                self.columns["evidence_max"][row] = -np.inf
                self.columns["p_value"][row] = 1.0
        return rows

    def observe(
        self, groups: list[str], scores: Array, magnitudes: Array, step: int, sweep: int, levels: Array | None = None
    ) -> None:
        """Add visits in the order given; a NaN score is an exposure without evidence. ``levels``: see ``level``."""
        rows = self.rows(groups, step)
        c = self.columns
        known = np.zeros(len(rows)) if levels is None else np.nan_to_num(levels)
        for row, score, magnitude, level in zip(rows, scores, magnitudes, known, strict=True):
            c["exposures"][row] += 1
            c["last_step"][row] = step
            if not np.isfinite(score):
                continue
            # what is trained on no more is forgotten by the model, and here, by time
            apart = 1 if c["condemned_step"][row] < 0 else max(1, sweep - int(c["last_sweep"][row]))
            decay = 0.5 ** (apart / self.half_life)
            c["sum"][row] = c["sum"][row] * decay + score
            c["level_sum"][row] = c["level_sum"][row] * decay + level
            c["w1"][row] = c["w1"][row] * decay + 1.0
            c["w2"][row] = c["w2"][row] * decay * decay + 1.0
            c["last_sweep"][row] = sweep
            c["scored"][row] += 1
            c["magnitude_sum"][row] += magnitude if np.isfinite(magnitude) else 0.0

    def note_drawn(self, group: str) -> None:
        """A visit of ``group``, already observed, was planned to be measured: its next one takes another draw."""
        row = self.names.row(group)
        self.columns["drawn"][row] += 1
        self.columns["last_drawn"][row] = self.columns["exposures"][row]

    def means_now(self, within: float, between: float, rows: Rows = ALL) -> Means:
        """Discounted mean scores of the groups in ``rows``, and what they spread over clean pairs; NaN means where
        nothing was measured."""
        w1, w2 = self["w1"][rows], self["w2"][rows]
        total = np.where(w1 > 0, w1, 1.0)
        spread = np.sqrt(between + within * w2 / (total * total))
        return Means(np.where(w1 > 0, self["sum"][rows] / total, np.nan), np.maximum(spread, 1e-9))

    def level(self, rows: Rows = ALL) -> Array:
        """How far minus the log loss of the groups in ``rows`` lies above that of the pairs that calibrate, discounted
        mean over their measured visits, [N]; 0 where none is measured."""
        w1 = self["w1"][rows]
        return np.where(w1 > 0, self["level_sum"][rows] / np.where(w1 > 0, w1, 1.0), 0.0)

    def look(self, evidence: Array, rows: Rows = ALL, spared: npt.NDArray[np.bool_] | None = None) -> None:
        """One look: ``evidence`` [N] (NaN = not compared) is that of the groups in ``rows``, and the running maxima of
        those that are not ``spared`` go on."""
        compared = np.isfinite(evidence)
        self["evidence"][rows] = np.where(compared, evidence, 0.0)
        counts = evidence if spared is None else np.where(spared, np.nan, evidence)
        self["evidence_max"][rows] = np.fmax(self["evidence_max"][rows], counts)

    def visits_a_sweep(self, sweeps: int, rows: Rows = ALL) -> Array:
        """Measured visits of each group in ``rows`` in one of ``sweeps``, mean, [N]."""
        return self["scored"][rows] / max(sweeps, 1)

    def condemn(self, row: int, step: int) -> None:
        """Note that a group is condemned."""
        self.columns["condemned_step"][row] = step

    def _grow(self) -> None:
        needed = len(self.names)
        if needed <= len(self.columns["sum"]):
            return
        capacity = max(1024, 2 * needed)
        for name, column in self.columns.items():
            larger = np.zeros(capacity, dtype=column.dtype)
            larger[: len(column)] = column
            self.columns[name] = larger

    def state_dict(self) -> dict[str, Any]:
        """Names and columns of the rows in use."""
        columns = {name: torch.from_numpy(self[name].copy()) for name in self.columns}
        return {"half_life": self.half_life, "names": self.names.state_dict(), "columns": columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly.

        Raises:
            ValueError: the state was written by a version that kept less of a group.
        """
        self.half_life = float(state["half_life"])
        self.names = Names()
        self.names.load_state_dict(state["names"])
        saved = {name: tensor.numpy() for name, tensor in state["columns"].items()}
        if missing := self.columns.keys() - saved.keys():
            raise ValueError(f"the checkpoint's history has no {', '.join(sorted(missing))}: it was written by an "
                             "earlier version; start a new run")  # fmt: skip
        self.columns = {name: saved[name].astype(column.dtype) for name, column in self.columns.items()}


@dataclass(frozen=True, slots=True)
class Life:
    """How a drawn path is visited and looked at.

    Attributes:
        half_life: later visits after which a visit counts half.
        visits: in a sweep.
        horizon: sweeps of a path.
        first: visits before this one are not compared.
    """

    half_life: float
    visits: int
    horizon: int
    first: int


def whole_life_maxima(scores: Array, within: float, between: float, life: Life, *, paths: int, seed: int) -> Array:
    """Largest evidence that clean pairs come to over a ``life``, looked at after each visit.

    Args:
        scores: [groups, sweeps] of the held-out pairs (NaN = not scored).
        within: variance within a pair; a path's residuals are drawn from the pairs' own.
        between: variance between pairs; a path has its pair's shrunken mean.
        life: of each path.
        paths: drawn for each held-out pair.
        seed: of the draws.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, life.visits]))
    counts = np.maximum(np.isfinite(scores).sum(axis=1), 1)
    means = np.nan_to_num(np.nansum(scores, axis=1) / counts)
    residuals = (scores - means[:, None]) * np.sqrt(counts / np.maximum(counts - 1, 1))[:, None]
    pool = residuals[np.isfinite(residuals) & (counts > 1)[:, None]]
    spread, middle = max(float(np.std(means)), 1e-9), float(np.mean(means))
    # tau^2 is taken high, and levels as far apart as it says: the paths must not be tamer than T's units
    levels = np.repeat(middle + (means - middle) * between**0.5 / spread, paths)
    decay, total, w1, w2 = 0.5 ** (1.0 / life.half_life), np.zeros(len(levels)), 0.0, 0.0
    best = np.full(len(levels), -np.inf)
    for visit in range(life.horizon * life.visits):
        noise = rng.choice(pool, len(levels)) if len(pool) else np.zeros(len(levels))
        total, w1, w2 = total * decay + levels + noise, w1 * decay + 1.0, w2 * decay * decay + 1.0
        if visit + 1 >= min(life.first, life.horizon):
            best = np.maximum(best, total / w1 / np.sqrt(between + within * w2 / (w1 * w1)))
    return best


def spread_of_clean_pairs(scores: Array) -> tuple[float, float]:
    """Variance of scores within and between held-out pairs, from ``scores`` [groups, sweeps] (NaN = not scored).

    One-way analysis of variance with unequal counts, the variance between pairs taken one standard error high; with
    fewer than two scores a pair, all is between.
    """
    counts = np.isfinite(scores).sum(axis=1)
    usable = scores[counts >= 2]
    flat = scores[np.isfinite(scores)]
    total = float(np.var(flat)) if len(flat) > 1 else 1.0
    if len(usable) < 2:
        return 0.0, max(total, 1e-6)
    n = np.isfinite(usable).sum(axis=1)
    means = np.nanmean(usable, axis=1)
    within = float(np.nansum((usable - means[:, None]) ** 2) / max(int((n - 1).sum()), 1))
    # One standard error up: with tau^2 too small, a pair that is read often would look guilty for being easy.
    spread = float(np.var(means)) * (1.0 + (2.0 / len(means)) ** 0.5)
    between = spread - within * float(np.mean(1.0 / n))
    # never less than a twentieth of the whole: a few held-out pairs cannot show that all images are alike
    return within, max(between, 0.05 * total, 1e-6)
