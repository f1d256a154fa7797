"""What passes between a training loop and the filter: a visit, what was measured of it, and what is decided."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch

__all__ = [
    "KEPT_FLOOR",
    "NAME_BYTES",
    "Action",
    "Decision",
    "Divisor",
    "Measurement",
    "Reason",
    "Verdict",
    "Visit",
    "finite_rows",
    "group_name",
]

NAME_BYTES: Final = 64
"""Longest name of a group, in UTF-8: names travel between ranks as tensors of one shape."""
Divisor = Literal["eligible", "kept"]
"""Samples of a batch that the sum of weighted losses is divided by: all that can be trained on, or the weights."""
KEPT_FLOOR: Final = 1e-3
"""A smaller weight is none: so a window's weights sum to 0 or to at least this, and gradients that were accumulated in
a window without weights are exactly 0, whichever engine holds them."""


def group_name(name: str) -> str:
    """``name``, or its hash where it is too long to travel."""
    data = name.encode()
    return name if len(data) <= NAME_BYTES else hashlib.blake2b(data, digest_size=16).hexdigest()


class Action(StrEnum):
    """What happens to a sample."""

    KEEP = "keep"
    DROP = "drop"
    REWEIGHT = "reweight"
    CAP = "cap"
    OBSERVE = "observe"
    CAPTION = "caption"
    RETIRE = "retire"
    FAILED = "failed"
    HELD_OUT = "held_out"


class Reason(StrEnum):
    """Why: the words that stand in the ledger."""

    CLEAN = "clean"
    NO_CAPTION = "caption dropped in this visit: no evidence"
    NOT_SCORED = "timestep beyond max_timestep: no evidence"
    NOT_DUE = "not due to be measured"
    THRESHOLD = "signal above the threshold"
    CONDEMNED = "evidence beyond the held-out groups'"
    SKIPPED = "condemned: skipped at the loader"
    RECALLED = "its caption brings its picture back"
    CAPPED = "group has reached max_exposures"
    NEVER_DROP = "listed in never_drop"
    ALWAYS_DROP = "listed in always_drop"
    BAD_INPUT = "input is not finite"
    UNREADABLE = "sample could not be read"
    HELD_OUT = "group is held out for calibration"


@dataclass(frozen=True, slots=True)
class Visit:
    """Where a sample stands in the run: its names and the position it was read from."""

    key: str
    shard: str = ""
    index: int = -1
    group: str = ""
    caption: str = ""
    stream: int = 0
    epoch: int = 0
    offset: int = 0

    @property
    def identity(self) -> str:
        """The name that evidence adds up under: the group, or the key where there is none."""
        return group_name(self.group or self.key)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about one visit: weight in [0, 1], action and reason, and the numbers it rests on."""

    visit: Visit
    weight: float
    action: Action
    reason: Reason
    timestep: int = -1
    signals: dict[str, float] = field(default_factory=dict)
    score: float = float("nan")
    p_value: float = float("nan")
    evidence: float = float("nan")
    threshold: float = float("nan")
    error: str | None = None

    @property
    def margin(self) -> float:
        """Distance of the deciding number from its threshold; NaN where nothing was compared."""
        compared = self.evidence if self.evidence == self.evidence else self.score
        return compared - self.threshold


@dataclass(slots=True)
class Measurement:
    """What one batch reads: raw signals (name -> [B] float32), timesteps [B], and which rows are evidence [B]."""

    signals: dict[str, torch.Tensor]
    timesteps: npt.NDArray[np.int64]
    usable: npt.NDArray[np.bool_]
    drawn: npt.NDArray[np.bool_] | None = None
    """Rows that the schedule had measured [B]; None where nothing was scheduled."""
    readable: npt.NDArray[np.bool_] | None = None
    """Rows whose signals mean something [B]: evidence, and beside it those beyond ``filter.max_timestep``; None where
    they are the same."""

    def says_something(self, row: int) -> bool:
        """Whether the signals of ``row`` mean something, evidence or not."""
        return bool((self.usable if self.readable is None else self.readable)[row])


@dataclass(slots=True)
class Decision:
    """Weights [B] (float32, on the losses' device), the verdicts they come from, and the samples' ``keys`` [B]."""

    weights: torch.Tensor
    verdicts: list[Verdict]
    divides_by: Divisor = "eligible"
    keys: list[str] = field(default_factory=list)

    def reduce(self, losses: torch.Tensor) -> torch.Tensor:
        """Weighted mean of ``losses`` ([B] or [B, ...]) of one process and one batch; a scalar.

        Divides by B (``eligible``) or by the sum of weights (``kept``, the paper's). A dropped sample's loss does not
        enter the value, not even as 0 * inf. Its gradient is another matter: behind a loss that is not finite lie
        values that are not, and 0 times their derivatives is NaN, in every weight. Nothing done to the loss helps, so
        with gradients it is refused; what helps is ``finite_rows``, before the forward.

        Raises:
            FloatingPointError: a kept sample's loss is not finite, or, where losses have gradients, a dropped one's.
        """
        per_sample = losses.flatten(1).mean(1) if losses.ndim > 1 else losses
        weights = self.weights.to(per_sample.device)
        lost = ~torch.isfinite(per_sample.detach())
        self._refuse(lost if per_sample.requires_grad else lost & (weights > 0))
        kept = torch.where(weights > 0, per_sample, torch.zeros_like(per_sample)) * weights
        count = weights.sum().clamp_min(KEPT_FLOOR) if self.divides_by == "kept" else len(per_sample)
        return kept.sum() / count

    def _refuse(self, lost: torch.Tensor) -> None:
        rows = torch.nonzero(lost).flatten().tolist()
        if not rows:
            return
        names = ", ".join(f"'{self.keys[row]}'" if self.keys else f"row {row}" for row in rows[:8])
        raise FloatingPointError(
            f"the loss of {len(rows)} sample(s) is not finite: {names}; their gradients would be NaN, and all weights "
            "with them, even at weight 0. Where the input is not finite, cut it before the forward: valid, (latents,) "
            "= finite_rows(latents), and decide(visits, measured, valid); where only the loss is, lower the learning "
            "rate or train in float32"
        )


def finite_rows(*inputs: torch.Tensor) -> tuple[list[bool], list[torch.Tensor]]:
    """(which samples are finite in all of ``inputs``, each [B, ...]; the inputs with the others' rows zeroed).

    For inputs of the forward, before it: what is NaN in there cannot be taken out of the gradient afterwards. Give
    ``decide`` the first as ``valid``: the others get weight 0, and so no gradient, exactly.
    """
    finite = torch.stack([torch.isfinite(tensor).flatten(1).all(1) for tensor in inputs]).all(0)
    shapes = [(-1, *[1] * (tensor.ndim - 1)) for tensor in inputs]
    whole = [
        torch.where(finite.view(shape), tensor, torch.zeros_like(tensor))
        for tensor, shape in zip(inputs, shapes, strict=True)
    ]
    return finite.tolist(), whole
