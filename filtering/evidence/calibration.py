"""From a raw signal to a number with a meaning: z-scores per t-bin and conformal p-values.

The magnitude of a clean sample depends strongly on t, so one scalar threshold drops clean samples at some t and
passes memorised ones at others. Held-out pairs, never trained on and scored at the same kind of t, say what is
ordinary now.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from memsieve.filtering.conformal import conformal_p_value
from memsieve.filtering.signals import COMBINED, SIGNALS, measured_for
from memsieve.filtering.statistics import median_and_spread

__all__ = ["T_BINS", "Calibrator"]

Array = npt.NDArray[np.float64]
T_BINS: Final = 10
"""Of equal width: clean pairs' signals change little within a tenth of the schedule, and bins fill in a few sweeps."""
MIN_PER_BIN: Final = 24
Z_LIMIT: Final = 6.0  # one visit says at most this much: a single outlier cannot condemn a pair
SLOPES: Final = (0.0, 1.5)
"""Of log L on log L_ref: 1 before the first step, less as the model moves; beyond these only noise takes it."""
MIN_SCALE: Final = 1e-4
MIN_SPREAD: Final = 0.5
"""Before the first step under LoRA a held-out pair has the reference's loss to the last bit: what differs by rounding
alone must not look far apart."""


class Calibrator:
    """A bank of recent reference measurements, and what a new measurement looks like beside them.

    Args:
        signals: names of the signals that decide, summed as z-scores.
        t_bins: number of equal timestep bins.
        num_train_timesteps: T of the noise scheduler.
        bank_size: measurements kept, oldest replaced first, so that the reference follows the model.
    """

    def __init__(self, signals: list[str], t_bins: int, num_train_timesteps: int, bank_size: int) -> None:
        self.signals = list(signals)
        self.t_bins = t_bins
        self.num_train_timesteps = num_train_timesteps
        self.bank_size = bank_size
        self.columns = measured_for(signals)
        self._combines = any(name in COMBINED for name in signals)
        self._names = [*signals, *(["loss"] if "loss" in self.columns else [])]
        self._values = np.full((bank_size, len(self.columns)), np.nan)
        self._timesteps = np.zeros(bank_size, dtype=np.int64)
        self._next = 0
        self._count = 0
        self._refresh()

    def __len__(self) -> int:
        return self._count

    def evidence_of(self, measured: dict[str, torch.Tensor]) -> Array:
        """What was measured for the deciding signals after its monotone transforms, [B, C] float64, a column for each
        of ``columns``; NaN where not scored."""
        columns = [SIGNALS[name].evidence(measured[name].detach().float()) for name in self.columns]
        return torch.stack(columns, dim=1).cpu().numpy().astype(np.float64)

    def add(self, evidence: Array, timesteps: npt.NDArray[np.int64]) -> None:
        """Put reference measurements [B, C] into the bank; rows with NaN are left out."""
        usable = np.isfinite(evidence).all(axis=1)
        for row, timestep in zip(evidence[usable], timesteps[usable], strict=True):
            self._values[self._next] = row
            self._timesteps[self._next] = timestep
            self._next = (self._next + 1) % self.bank_size
            self._count = min(self._count + 1, self.bank_size)
        self._refresh()

    def z_scores(self, evidence: Array, timesteps: npt.NDArray[np.int64]) -> Array:
        """Median / MAD z-score of each signal in its t-bin, from measurements [B, C], [B, S], limited to +-6; NaN
        without a reference."""
        return self._standard(evidence, timesteps)[:, : len(self.signals)]

    def levels(self, evidence: Array, timesteps: npt.NDArray[np.int64]) -> Array:
        """How far minus the log loss lies above the reference's median, [B], in the same units: negative where the
        loss is high; NaN where no loss is measured."""
        if "loss" not in self.columns:
            return np.full(len(evidence), np.nan)
        return self._standard(evidence, timesteps)[:, -1]

    def _standard(self, evidence: Array, timesteps: npt.NDArray[np.int64]) -> Array:
        bins = self._bins(timesteps)
        values = self._combined(evidence, self._slope[bins])
        z: Array = np.clip((values - self._location[bins]) / self._scale[bins], -Z_LIMIT, Z_LIMIT)
        return z

    def scores(self, evidence: Array, timesteps: npt.NDArray[np.int64]) -> Array:
        """Sum of z-scores in units of its own spread over the reference, [B]."""
        total: Array = self.z_scores(evidence, timesteps).sum(axis=1) / self._spread
        return total

    def p_values(self, scores: Array) -> Array:
        """Conformal p-value of single visits: their rank among the bank's scores, [B]."""
        return conformal_p_value(scores, self._reference)

    def _bins(self, timesteps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        bins = timesteps.astype(np.int64) * self.t_bins // self.num_train_timesteps
        return np.clip(bins, 0, self.t_bins - 1)

    def _combined(self, evidence: Array, slope: Array) -> Array:
        """The signals, and the loss beside them where it is measured, of measurements [B, C]; the residual is taken at
        ``slope`` [B]."""
        column = dict(zip(self.columns, evidence.T, strict=True))
        if self._combines:
            loss, base = self._log_losses(evidence)
            column["reference_residual"] = slope * base - loss
        return np.stack([column[name] for name in self._names], axis=1)

    def _log_losses(self, evidence: Array) -> tuple[Array, Array]:
        """(log L, log L_ref) from the evidence of the loss, -log L, and of the ratio, log L_ref - log L."""
        loss = -evidence[:, self.columns.index("loss")]
        return loss, evidence[:, self.columns.index("reference_ratio")] + loss

    def _slope_of(self, chosen: Array) -> float:
        """Least-squares slope of log L on log L_ref; 1, at which the residual is the ratio, where few or like
        measurements do not say it."""
        if not self._combines or len(chosen) < MIN_PER_BIN:
            return 1.0
        loss, base = self._log_losses(chosen)
        varies = float(np.var(base))
        if varies < 1e-12:
            return 1.0
        return float(np.clip(np.cov(base, loss, bias=True)[0, 1] / varies, *SLOPES))

    def _refresh(self) -> None:
        """Slope, location and scale per bin; a bin with few measurements borrows from its neighbours, widening."""
        shape = (self.t_bins, len(self._names))
        self._location, self._scale = np.full(shape, np.nan), np.full(shape, np.nan)
        self._slope = np.ones(self.t_bins)
        self._spread, self._reference = 1.0, np.zeros(0)
        if self._count == 0:
            return
        values, bins = self._values[: self._count], self._bins(self._timesteps[: self._count])
        for b in range(self.t_bins):
            for reach in range(self.t_bins):
                chosen = values[np.abs(bins - b) <= reach]
                if len(chosen) >= min(MIN_PER_BIN, self._count):
                    break
            self._slope[b] = self._slope_of(chosen)
            signals = self._combined(chosen, self._slope[b])
            self._location[b], spread = median_and_spread(signals)
            self._scale[b] = np.maximum(spread, MIN_SCALE)
        sums = self.z_scores(values, self._timesteps[: self._count]).sum(axis=1)
        self._spread = max(float(np.std(sums)), MIN_SPREAD) if self._count > 1 else 1.0
        self._reference = sums / self._spread

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides, as tensors and plain values."""
        return {
            "signals": self.signals,
            "values": torch.from_numpy(self._values.copy()),
            "timesteps": torch.from_numpy(self._timesteps.copy()),
            "next": self._next,
            "count": self._count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly.

        Raises:
            ValueError: the state was written for other signals, or keeps another number of measurements.
        """
        if state["signals"] != self.signals or len(state["values"]) != self.bank_size:
            raise ValueError(
                f"the saved calibrator is of signals {state['signals']} and keeps {len(state['values'])} measurements; "
                f"this one is of {self.signals} and keeps {self.bank_size}: resume with the saved config, or begin anew"
            )
        self._values = state["values"].numpy().copy()
        self._timesteps = state["timesteps"].numpy().copy()
        self._next, self._count = int(state["next"]), int(state["count"])
        self._refresh()
