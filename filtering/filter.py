"""MemorizationFilter: measure, calibrate, decide, and close the window.

A training loop measures a batch, asks for a decision, multiplies its per-sample losses by the weights, and closes the
window of accumulated batches. A rule (``rules/``) tests visits and condemns pairs; the policy (``policy.py``) makes
weights of what it finds. Decisions about pairs rest on the evidence at the start of the window; evidence is added up
and tested once a window, in a fixed order, from all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memsieve.filtering.config import BANK_SIZE, FilterConfig, RuleName
from memsieve.filtering.evidence.calibration import T_BINS, Calibrator
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.evidence.history import measured_of, remember
from memsieve.filtering.evidence.sharing import Standing, look_up, top_groups
from memsieve.filtering.evidence.state import local_state, restore, whole_state
from memsieve.filtering.evidence.table import HALF_LIFE, MIN_SWEEPS, EvidenceTable
from memsieve.filtering.evidence.uncalibrated import Uncalibrated
from memsieve.filtering.evidence.window import VisitRecord, WindowVisits
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.policy import Policy
from memsieve.filtering.rules import Rule, WindowEnd, checked, readings_of, rule_of
from memsieve.filtering.schedule import Schedule, WindowPlan, candidates_of
from memsieve.filtering.signals import Predictions, measure, required_passes
from memsieve.filtering.types import Action, Decision, Measurement, Reason, Verdict, Visit

__all__ = ["MemorizationFilter"]

Array = npt.NDArray[np.float64]
NOBODY = Visit(key="")  # stands for rows that leave no trace


class MemorizationFilter:
    """Measures training pairs and says which to drop or down-weight, and why.

    Args:
        config: the settings, or give them as keyword arguments (see ``FilterConfig``).
        num_train_timesteps: T of the noise scheduler.
        exchange: collectives over ranks; the default uses the process group where there is one.
        audited: draws per pair that a looked-up reference holds; None without one.
        rule: tests visits and condemns pairs: a name as in the settings, or a ``Rule`` of one's own in its place.

    Raises:
        ValueError: settings that contradict each other. Too few held-out groups for ``false_drop_rate`` are known, and
            refused, in ``end_window``.
    """

    def __init__(
        self,
        config: FilterConfig | None = None,
        *,
        num_train_timesteps: int = 1000,
        exchange: Exchange | None = None,
        audited: int | None = None,
        rule: Rule | RuleName | None = None,
        **options: Any,
    ) -> None:
        if isinstance(rule, str):
            options["rule"], rule = rule, None
        if config is not None and options:
            raise TypeError(f"config holds all settings, and {sorted(options)[0]} was given beside it: set it there")
        self.config = config if config is not None else FilterConfig(**options)
        self.exchange = exchange or Exchange()
        self.calibrator = Calibrator(list(self.config.signals), T_BINS, num_train_timesteps, BANK_SIZE)
        self.groups = EvidenceTable(HALF_LIFE, MIN_SWEEPS)
        self.held_out = HeldOutPairs(self.config)
        self.rule = rule if rule is not None else rule_of(self.config, self.held_out)
        self.policy = Policy(self.config)
        self.n_groups = 0
        """Groups seen, on all ranks, at the end of the last window."""
        self.passes = required_passes(self.config.measured)
        self.deciding_passes = required_passes(self.config.signals)
        self.schedule = Schedule(self.config, audited) if self.config.apply == "sieve" else None
        self.step = 0
        self._max_timestep = math.inf
        if self.config.measured_share < 1.0:
            self._max_timestep = self.config.measured_share * num_train_timesteps
        self._visits = WindowVisits()
        self._known: dict[str, Standing] | None = None
        self._uncalibrated = Uncalibrated(self.config, self.held_out)

    @property
    def rule(self) -> Rule:
        """Tests visits and condemns pairs; one of one's own may be put in its place before the first window.

        Raises:
            TypeError: it is no rule.
            ValueError: it cannot do what the settings ask of it.
        """
        return self._rule

    @rule.setter
    def rule(self, rule: Rule) -> None:
        self._rule = checked(rule, self.config)

    @property
    def condemned(self) -> dict[str, int]:
        """Condemned groups of all ranks and the step of each."""
        return self.rule.condemned

    @property
    def overfitting(self) -> bool:
        """The run was found to overfit as a whole."""
        return self.rule.overfitting

    # -- measuring ------------------------------------------------------------------------------------------------

    def measure(
        self,
        predictions: Predictions,
        timesteps: torch.Tensor,
        usable: Sequence[bool] | None = None,
        signals: Sequence[str] | None = None,
    ) -> Measurement:
        """The signals of one batch: those named, or all that the settings decide on or record.

        ``usable`` is False for rows that are no evidence (caption dropped); so are those beyond ``max_timestep``.
        """
        readable = np.ones(len(timesteps), dtype=bool) if usable is None else np.asarray(usable, dtype=bool)
        values = measure(self.config.measured if signals is None else signals, predictions)
        host = timesteps.detach().cpu().numpy()
        return Measurement(values, host.astype(np.int64), readable & (host < self._max_timestep), readable=readable)

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
        self.held_out.observe(groups, scores, self.step)

    # -- deciding -------------------------------------------------------------------------------------------------

    def begin_window(
        self, visits: Sequence[Visit], eligible: Sequence[bool] | None = None, batch_size: int | None = None
    ) -> WindowPlan | None:
        """Learn from their ranks how the groups of a whole window stand, equally many visits on all ranks.

        A loop that accumulates batches calls this once a window; without it ``decide`` asks for each batch.

        Args:
            eligible: which visits would be evidence (their caption is there); with it, and where the filter works at
                the loader, the plan of what to measure is returned.
            batch_size: of the batches that the window is trained in.
        """
        if not self.rule.remembers and self.config.policy != "cap":
            self._known = {}
            return None
        everyone = look_up(self.groups, self.exchange, [visit.identity for visit in visits])
        start = self.exchange.rank * len(visits)
        mine = everyone[start : start + len(visits)]
        self._known = {group: standing for group, standing in mine if standing is not None}
        if self.schedule is None or eligible is None:
            return None
        candidates = candidates_of(visits, eligible, everyone, self.condemned, self.exchange)
        rank, rows = self.exchange.rank, len(visits)
        return self.schedule.plan(candidates, rank, rows, batch_size or rows, self.step)

    def without_caption(self, visit: Visit) -> bool:
        """Whether a visit is to be trained without its caption (``policy: caption``, its group is condemned)."""
        return self.policy.takes_caption(visit, self.condemned)

    def settled(self, visits: Sequence[Visit]) -> list[bool]:
        """Which visits [B] of the open window get weight 0 whatever is read of them, since their pair was condemned
        before it, for one: they need no backward, and what decides need not be measured of them."""
        condemned = self.condemned if self.rule.remembers else {}
        known = self._known or {}
        return [self.policy.settles(visit, condemned, known.get(visit.identity)) for visit in visits]

    @property
    def begun(self) -> bool:
        """A window is open."""
        return self._known is not None

    def decide(
        self, visits: Sequence[Visit], measurement: Measurement, valid: Sequence[bool] | None = None
    ) -> Decision:
        """Weights and verdicts of one batch, from the evidence at the start of the window (or, with a rule that tests
        visits, from this visit's own signals).

        Rows that are not ``valid`` get weight 0 and leave no trace in the history: padding (a visit without a key)
        has no verdict, a sample with a non-finite input is a failed one (see ``finite_rows``).
        """
        begun = self._known is not None
        if not begun:
            self.begin_window(visits)
        evidence = self._evidence(measurement)
        scores = self.calibrator.scores(evidence, measurement.timesteps)
        readings = readings_of(measurement, scores, self.calibrator.p_values(scores))
        verdicts = []
        for i, (visit, reading) in enumerate(zip(visits, readings, strict=True)):
            if valid is not None and not valid[i]:
                verdicts.append(Verdict(visit, 0.0, Action.FAILED, Reason.BAD_INPUT, reading.timestep))
                self._visits.add(NOBODY, VisitRecord.of_nobody(reading.timestep, len(evidence[i])))
                continue
            standing = (self._known or {}).get(visit.identity)
            finding = self.rule.finding(visit, reading, standing)
            verdict = self.policy.verdict(visit, reading, finding, standing)
            verdicts.append(verdict)
            drawn = measurement.drawn is not None and bool(measurement.drawn[i])
            self._visits.add(visit, VisitRecord.of(verdict, drawn, evidence[i].tolist()))
        self.rule.learn(measurement)
        if not begun:
            self._known = None
        weights = torch.tensor([verdict.weight for verdict in verdicts], dtype=torch.float32)
        device = next(iter(measurement.signals.values())).device
        named = [verdict for verdict in verdicts if verdict.visit.key]
        return Decision(weights.to(device), named, self.rule.divides_by, [visit.key for visit in visits])

    @property
    def evidence_bar(self) -> float:
        """Evidence that a running maximum must exceed to be condemned now, for a group that is measured once a sweep;
        inf before the first comparison. With ``rule: recall``, the margin beyond which a drawing comes back."""
        own: float | None = getattr(self.rule, "bar", None)
        return self.held_out.bar() if own is None else own

    # -- closing a window -----------------------------------------------------------------------------------------

    def end_window(self, note: Callable[[str], None] | None = None) -> bool:
        """Add the window's visits of all ranks to the history, in the order of their positions, and let the rule test
        and condemn; True where a sweep over the held-out groups is complete, and all were tested. ``note`` is told in
        words when the run overfits as a whole.

        Raises:
            ValueError: on all ranks, where all held-out groups have been met and are too few for ``false_drop_rate``;
                ``policy: observe`` warns.
        """
        records = self._visits.close(self.exchange)
        measured = remember(records, self.groups, self.calibrator, self.exchange, self.step, self.held_out.sweep)
        if self.rule.learns_from_training and len(self.held_out) == 0 and records:
            self.calibrator.add(*measured_of(records, self.calibrator))
        self._known = None
        self.step += 1
        swept, self.held_out.due = self.held_out.due, False
        needed = self.rule.needs_held_out
        short = needed and self.held_out.shortage is not None
        known, shorts = self.exchange.sum([len(self.groups), float(short)])
        self.n_groups = int(known)
        self._uncalibrated.say(self.step, self.rule.name, needed, shorts > 0)
        window = WindowEnd(
            self.groups, measured, self.held_out, self.exchange, swept, self.n_groups, self.step, note
        )  # fmt: skip
        self.rule.test_and_condemn(window)
        return swept

    def suspects(self, count: int) -> list[Standing]:
        """The most suspected groups of all ranks, the same on each; a collective."""
        return top_groups(self.groups, self.exchange, count)

    # -- state ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on, with the groups of all ranks, the same on each: what one process
        would save. Tensors and plain values; call between windows, on every rank (a collective).

        Raises:
            RuntimeError: rank 0 calls it alone.
        """
        return whole_state(self)

    def local_state_dict(self) -> dict[str, Any]:
        """``state_dict`` with this rank's share of the groups only, for loops that save a file on every rank; call
        between windows."""
        return local_state(self)

    def load_state_dict(self, state: dict[str, Any], *others: dict[str, Any]) -> None:
        """Restore exactly, on any number of ranks: of what ``state_dict`` gave, each rank takes its share.

        Args:
            state: from ``state_dict``; or this rank's own ``local_state_dict``; or, for another number of ranks,
                ``state`` and ``others`` are the local states of all ranks that saved.

        Raises:
            ValueError: the state was saved with settings that decide otherwise, or is the share of another rank or of
                some of the ranks.
        """
        restore(self, [state, *others])
