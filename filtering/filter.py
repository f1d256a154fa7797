"""MemorizationFilter: signal -> calibrator -> history -> policy.

A training loop measures a batch, asks for a decision, multiplies its per-sample losses by the weights, and closes the
window of accumulated batches. Group decisions rest on the evidence at the start of the window; evidence is updated
once a window, in a fixed order, from all ranks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from filtering.calibration import Calibrator
from filtering.config import FilterConfig
from filtering.exchange import Exchange
from filtering.history import EvidenceTable
from filtering.panel import HeldOutPanel
from filtering.policy import KEPT_FLOOR, Finding, apply_policy
from filtering.signals import Predictions, measure, required_passes
from filtering.verdict import Action, Reason, Verdict, Visit

__all__ = ["Decision", "Measurement", "MemorizationFilter"]

Array = npt.NDArray[np.float64]
NAME_BYTES = 64
NOBODY = Visit(key="")  # stands for rows that leave no trace


@dataclass(slots=True)
class Measurement:
    """What one batch reads: raw signals (name -> [B] float32), timesteps [B], and which rows are evidence [B]."""

    signals: dict[str, torch.Tensor]
    timesteps: npt.NDArray[np.int64]
    usable: npt.NDArray[np.bool_]


@dataclass(slots=True)
class Decision:
    """Weights [B] (float32, on the losses' device) and the verdicts they come from."""

    weights: torch.Tensor
    verdicts: list[Verdict]
    normalize: str = "eligible"

    def reduce(self, losses: torch.Tensor) -> torch.Tensor:
        """Weighted mean of ``losses`` ([B] or [B, ...]) of one process and one batch; a scalar.

        Divides by B (``eligible``) or by the sum of weights (``kept``, the paper's). A dropped sample's loss never
        enters, not even as 0 * inf.
        """
        per_sample = losses.flatten(1).mean(1) if losses.ndim > 1 else losses
        weights = self.weights.to(per_sample.device)
        kept = torch.where(weights > 0, per_sample, torch.zeros_like(per_sample)) * weights
        count = weights.sum().clamp_min(KEPT_FLOOR) if self.normalize == "kept" else len(per_sample)
        return kept.sum() / count


class MemorizationFilter:
    """Measures training pairs and says which to drop or down-weight, and why.

    Args:
        config: the settings, or give them as keyword arguments (see ``FilterConfig``).
        num_train_timesteps: T of the noise scheduler.
        exchange: collectives over ranks; the default uses the process group where there is one.

    Raises:
        ValueError: settings that contradict each other, or too few held-out groups for ``false_drop_rate``.
    """

    def __init__(
        self,
        config: FilterConfig | None = None,
        *,
        num_train_timesteps: int = 1000,
        exchange: Exchange | None = None,
        **options: Any,
    ) -> None:
        self.config = config if config is not None else FilterConfig(**options)
        self.exchange = exchange or Exchange()
        self.calibrator = Calibrator(
            list(self.config.signals), self.config.t_bins, num_train_timesteps, self.config.bank_size
        )
        self.groups = EvidenceTable(self.config.half_life)
        self.panel = HeldOutPanel(self.config)
        self.passes = required_passes(self.config.measured)
        self.deciding_passes = required_passes(self.config.signals)
        self.step = 0
        self.overfitting = False
        self._pending: list[tuple[Visit, float, float, float]] = []
        self._pending_bank: list[tuple[Array, npt.NDArray[np.int64]]] = []
        self._never, self._always = set(self.config.never_drop), set(self.config.always_drop)

    # -- measuring ------------------------------------------------------------------------------------------------

    def measure(
        self,
        predictions: Predictions,
        timesteps: torch.Tensor,
        usable: Sequence[bool] | None = None,
        signals: Sequence[str] | None = None,
    ) -> Measurement:
        """The signals of one batch: those named, or all that the settings decide on or record.

        ``usable`` is False for rows that are no evidence (caption dropped).
        """
        count = len(timesteps)
        flags = np.ones(count, dtype=bool) if usable is None else np.asarray(usable, dtype=bool)
        values = measure(signals or self.config.measured, predictions)
        return Measurement(values, timesteps.detach().cpu().numpy().astype(np.int64), flags)

    def _evidence(self, measurement: Measurement) -> Array:
        evidence = self.calibrator.evidence_of(measurement.signals)
        evidence[~measurement.usable] = np.nan
        return evidence

    def calibrate(self, groups: Sequence[str], measurement: Measurement) -> None:
        """Take in held-out pairs, scored by the present model at the present kind of t.

        Every rank gives the same rows. A sweep is complete when a group comes round again.
        """
        evidence = self._evidence(measurement)
        if len(self.calibrator) == 0:
            self.calibrator.add(evidence, measurement.timesteps)
        scores = self.calibrator.scores(evidence, measurement.timesteps)
        self.calibrator.add(evidence, measurement.timesteps)
        self.panel.observe(groups, scores, self.step)

    # -- deciding -------------------------------------------------------------------------------------------------

    def decide(
        self, visits: Sequence[Visit], measurement: Measurement, valid: Sequence[bool] | None = None
    ) -> Decision:
        """Weights and verdicts of one batch, from the evidence at the start of the window (and, with
        ``decide: visit``, from this visit's own signals).

        Rows that are not ``valid`` get weight 0 and leave no trace in the history: padding (a visit without a key)
        has no verdict, a sample with a non-finite input is a failed one.
        """
        evidence = self._evidence(measurement)
        scores = self.calibrator.scores(evidence, measurement.timesteps)
        p_values = self.calibrator.p_values(scores)
        host = {name: value.cpu().tolist() for name, value in measurement.signals.items()}
        verdicts = []
        for i, visit in enumerate(visits):
            if valid is not None and not valid[i]:
                verdicts.append(Verdict(visit, 0.0, Action.FAILED, Reason.BAD_INPUT, int(measurement.timesteps[i])))
                self._pending.append((NOBODY, math.nan, math.nan, 0.0))
                continue
            values = {name: column[i] for name, column in host.items()}
            if not measurement.usable[i]:
                values = {name: value for name, value in values.items() if name in ("loss", "reference_ratio")}
            verdict = self._verdict(
                visit,
                values,
                int(measurement.timesteps[i]),
                float(scores[i]),
                float(p_values[i]),
                bool(measurement.usable[i]),
            )
            verdicts.append(verdict)
            magnitude = values.get("magnitude", float("nan"))
            self._pending.append((visit, float(scores[i]), magnitude, verdict.weight))
        if self.config.calibrator == "robust" and len(self.panel) == 0:
            self._pending_bank.append((evidence, measurement.timesteps))
        weights = torch.tensor([verdict.weight for verdict in verdicts], dtype=torch.float32)
        device = next(iter(measurement.signals.values())).device
        return Decision(weights.to(device), [v for v in verdicts if v.visit.key], self.config.normalize)

    def _verdict(
        self, visit: Visit, values: dict[str, float], timestep: int, score: float, p_value: float, usable: bool
    ) -> Verdict:
        guilty, excess, reason, threshold = self._test(visit, values, score, p_value, usable)
        row = self.groups.row(_group(visit))
        evidence = float(self.groups["evidence"][row]) if row >= 0 else math.nan
        trained = int(self.groups["trained"][row]) if row >= 0 else 0
        names = {visit.key, visit.group}
        if names & self._never:
            weight, action, reason = 1.0, Action.KEEP, Reason.NEVER_DROP
        elif names & self._always:
            weight, action, reason = 0.0, Action.DROP, Reason.ALWAYS_DROP
        else:
            weight, action, reason = apply_policy(self.config, Finding(guilty, excess, trained, reason))
            if action is Action.KEEP and not usable:
                reason = Reason.NO_CAPTION
        if self.config.decide == "group" and row >= 0 and self.config.calibrator == "conformal":
            p_value = float(self.groups["p_value"][row])
        return Verdict(
            visit,
            weight,
            action,
            reason,
            timestep,
            values,
            score,
            p_value,
            evidence if self.config.decide == "group" else math.nan,
            threshold,
        )

    def _test(
        self, visit: Visit, values: dict[str, float], score: float, p_value: float, usable: bool
    ) -> tuple[bool, float, Reason, float]:
        """(guilty, excess, reason, threshold) of one visit."""
        config = self.config
        if config.decide == "group":
            row = self.groups.row(_group(visit))
            bar = self.evidence_bar
            if row < 0:
                return False, math.nan, Reason.CLEAN, bar
            guilty = bool(self.groups["condemned_step"][row] >= 0)
            return guilty, float(self.groups["evidence"][row]) - bar, Reason.CONDEMNED, bar
        if not usable:
            return False, math.nan, Reason.NO_CAPTION, math.nan
        if config.calibrator == "fixed":
            value, tau = values[config.signals[0]], float(config.threshold or 0.0)
            ratio = math.log(value / tau) if value > 0.0 and tau > 0.0 else value - tau
            return value > tau, ratio, Reason.THRESHOLD, tau
        if config.calibrator == "robust":
            bar = float(config.threshold or 0.0)
            return score > bar, score - bar, Reason.THRESHOLD, bar
        guilty = p_value <= config.false_drop_rate
        return (
            guilty,
            math.log(config.false_drop_rate / p_value) if p_value > 0 else math.nan,
            Reason.THRESHOLD,
            config.false_drop_rate,
        )

    @property
    def evidence_bar(self) -> float:
        """Evidence that a running maximum must exceed to be condemned now; inf before the first comparison."""
        return self.panel.bar

    # -- closing a window -----------------------------------------------------------------------------------------

    def end_window(self, note: Callable[[str], None] | None = None) -> bool:
        """Add the window's visits of all ranks to the history, in the order of their positions; then, when a sweep
        over the held-out groups is complete, compare, and return True. ``note`` is told in words when the run
        overfits as a whole."""
        records = [record for record in self._gathered() if record[0]]
        names = [record[0] for record in records]
        self.groups.observe(
            names, np.array([r[1] for r in records]), np.array([r[2] for r in records]), self.step, self.panel.sweep
        )
        for name, _, _, weight in records:
            row = self.groups.row(name)
            self.groups["trained" if weight > 0 else "dropped"][row] += 1
        for evidence, timesteps in self._pending_bank:
            self.calibrator.add(evidence, timesteps)
        self._pending, self._pending_bank = [], []
        self.step += 1
        if not self.panel.due:
            return False
        self._condemn(self.panel.judge(self.groups), note)
        return True

    def _gathered(self) -> list[tuple[str, float, float, float]]:
        """(group, score, magnitude, weight) of every visit of the window on all ranks, by position."""
        rows = [
            [v.stream, v.epoch, v.offset, score, magnitude, weight, *_packed(_group(v))]
            for v, score, magnitude, weight in self._pending
        ]
        if self.exchange.world_size == 1:
            order = sorted(range(len(rows)), key=lambda i: rows[i][:3])
            return [(_group(self._pending[i][0]), *map(float, rows[i][3:6])) for i in order]  # type: ignore[misc]
        table = self.exchange.gather(torch.tensor(rows, dtype=torch.float64))
        everything = sorted(table.tolist(), key=lambda row: row[:3])
        return [(_unpacked(row[6:]), row[3], row[4], row[5]) for row in everything]

    def _condemn(self, rows: npt.NDArray[np.int64], note: Callable[[str], None] | None) -> None:
        """Condemn ``rows``, most evident first, up to ``max_drop_fraction`` of the groups seen."""
        already = int((self.groups["condemned_step"] >= 0).sum())
        room = max(0, math.floor(self.config.max_drop_fraction * len(self.groups)) - already)
        if len(rows) > room:
            self.overfitting = True
            if note is not None:
                note(
                    f"{already + len(rows)} of {len(self.groups)} groups pass the bar, more than "
                    f"filter.max_drop_fraction: {self.config.max_drop_fraction}; the run is overfitting as a whole: "
                    "stop earlier, lower the learning rate, or cap exposures (filter.policy: cap)"
                )
        order = rows[np.argsort(-self.groups["evidence_max"][rows], kind="stable")]
        self.groups["condemned_step"][order[:room]] = self.step

    # -- state ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on; call between windows."""
        return {
            "config": self.config.model_dump(mode="json"),
            "calibrator": self.calibrator.state_dict(),
            "groups": self.groups.state_dict(),
            "panel": self.panel.state_dict(),
            "step": self.step,
            "overfitting": self.overfitting,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly.

        Raises:
            ValueError: the state was saved with settings that decide otherwise.
        """
        free = {"never_drop", "always_drop", "record", "ledger_kept", "enabled"}
        saved, mine = state["config"], self.config.model_dump(mode="json")
        changed = [name for name in mine if name not in free and saved.get(name) != mine[name]]
        if changed:
            first = changed[0]
            raise ValueError(
                f"filter.{first} is {mine[first]!r} but the checkpoint was written with {saved.get(first)!r}; resume "
                "with the saved value, or start a new run folder"
            )
        self.calibrator.load_state_dict(state["calibrator"])
        self.groups.load_state_dict(state["groups"])
        self.panel.load_state_dict(state["panel"])
        self.step, self.overfitting = int(state["step"]), bool(state["overfitting"])


def _group(visit: Visit) -> str:
    """The name that evidence accumulates under; a name too long for the exchange between ranks is hashed."""
    name = visit.group or visit.key
    data = name.encode()
    return name if len(data) <= NAME_BYTES else hashlib.blake2b(data, digest_size=16).hexdigest()


def _packed(group: str) -> list[float]:
    """A group's name, four bytes to a float64 (which holds 32-bit numbers exactly)."""
    data = group.encode().ljust(NAME_BYTES, b"\0")
    return [float(int.from_bytes(data[i : i + 4], "big")) for i in range(0, NAME_BYTES, 4)]


def _unpacked(numbers: Sequence[float]) -> str:
    return b"".join(int(number).to_bytes(4, "big") for number in numbers).rstrip(b"\0").decode()
