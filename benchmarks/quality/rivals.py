"""Rivals of the filter that decide visit by visit, put where the filter stands in the training loop."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch

from memsieve.filtering.data.draws import row_generator
from memsieve.filtering.decision import Decision, Measurement
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.judgement import Reading
from memsieve.filtering.types import Action, Reason, Verdict, Visit
from memsieve.train.session import Session

__all__ = ["LossBelowAverage", "RandomDrop", "RivalFilter", "VisitRule", "install"]


class VisitRule(Protocol):
    """What a rival decides by."""

    def margin(self, visit: Visit, loss: float, timestep: int) -> float:
        """Above 0: the visit is dropped."""
        ...

    def learn(self, losses: list[float], timesteps: list[int]) -> None:
        """Called after each batch, once everything in it is decided."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class LossBelowAverage:
    """IET-AGC's rule (Liu et al., ECCV 2024) without its sharding: skip a sample where loss * ratio < average[t], an
    exponential average of the losses at that timestep, which starts at 0 and takes in skipped samples too.

    Args:
        ratio: 1.25 in the authors' code for Stable Diffusion.
        decay: 0.8 there.
    """

    def __init__(self, ratio: float = 1.25, decay: float = 0.8, timesteps: int = 1000) -> None:
        self.ratio, self.decay = ratio, decay
        self.average = np.zeros(timesteps)

    def margin(self, visit: Visit, loss: float, timestep: int) -> float:
        average = float(self.average[timestep])
        return math.log(average / (loss * self.ratio)) if average > 0.0 and loss > 0.0 else -math.inf

    def learn(self, losses: list[float], timesteps: list[int]) -> None:
        for loss, timestep in zip(losses, timesteps, strict=True):
            self.average[timestep] = self.decay * self.average[timestep] + (1.0 - self.decay) * loss

    def state_dict(self) -> dict[str, Any]:
        return {"average": torch.from_numpy(self.average.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average = state["average"].numpy().copy()


class RandomDrop:
    """Drops a visit with probability ``rate``, by its position."""

    def __init__(self, rate: float, seed: int) -> None:
        self.rate, self.seed = rate, seed

    def margin(self, visit: Visit, loss: float, timestep: int) -> float:
        place = (visit.stream, visit.epoch, visit.offset)
        return self.rate - float(row_generator(self.seed, *place, purpose="random drop").random())

    def learn(self, losses: list[float], timesteps: list[int]) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class RivalFilter(MemorizationFilter):
    """The filter's place in the loop, with a ``rule`` of another hand deciding. Captions play no part in it."""

    def __init__(self, before: MemorizationFilter, rule: VisitRule) -> None:
        super().__init__(before.config, exchange=Exchange())
        self.rule = rule

    def decide(self, visits: Any, measurement: Measurement, valid: Any = None) -> Decision:
        decision = super().decide(visits, measurement, valid)
        self.rule.learn(measurement.signals["loss"].cpu().tolist(), measurement.timesteps.tolist())
        return decision

    def _verdict(self, visit: Visit, reading: Reading) -> Verdict:
        margin = self.rule.margin(visit, reading.values["loss"], reading.timestep)
        dropped = margin > 0.0
        return Verdict(
            visit,
            0.0 if dropped else 1.0,
            Action.DROP if dropped else Action.KEEP,
            Reason.THRESHOLD if dropped else Reason.CLEAN,
            reading.timestep,
            reading.values,
            margin if math.isfinite(margin) else math.nan,
            threshold=0.0,
        )

    def local_state_dict(self) -> dict[str, Any]:
        return {**super().local_state_dict(), "rule": self.rule.state_dict()}

    def load_state_dict(self, state: dict[str, Any], *others: dict[str, Any]) -> None:
        super().load_state_dict(state, *others)
        self.rule.load_state_dict(state["rule"])


def install(session: Session, rule: VisitRule, state: dict[str, Any] | None) -> None:
    """Put a rival into a session that was set up with the filter, at the ``state`` that a checkpoint holds of it."""
    assert session.filter is not None and session.scorer is not None
    rival = RivalFilter(session.filter, rule)
    if state is not None:
        rival.load_state_dict(state)
    session.filter = session.trainer.filter = session.scorer.filter = rival
