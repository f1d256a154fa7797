"""Does the run overfit? Held-out loss that has turned, and the gap between pairs trained on and pairs never seen.

Losses are measured at the same (t, noise) of each pair at every look, so that looks differ by the model alone. A run
that overfits need not copy, and the other way round: which pairs come back is asked elsewhere (``train/recall.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from scipy import stats

__all__ = ["Look", "OverfitWatch"]

LEVEL: Final = 0.01
"""Of the tests: a run is looked at some twenty times."""
RISE: Final = 0.05
"""Held-out loss has turned where it lies further than this share above its lowest, beyond chance: below that, stopping
earlier gains nothing that one would see."""
PLAIN_RISE: Final = 0.5
"""So large a rise needs no test, however few held-out pairs there are."""
GAP: Final = 0.25
"""The gap opens where training pairs have lost this much more of their loss than held-out ones. One pass over a large
set leaves 3 to 10 %."""
FEW: Final = 8
"""With fewer pairs than this each (t, noise) counts for itself: two pairs' means say nothing about chance."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the model found: mean losses, NaN where there was nothing to measure."""

    step: int
    held_out: float
    training: float


class OverfitWatch:
    """Compares each look with the base and with the best look so far.

    Attributes:
        looks: all so far, the base first.
        best: the look with the lowest held-out loss.
        best_trained: of those after the first step; None before.
        said: what was found, in words; "" while nothing.
        since: the look at which it was found; -1 before.
    """

    def __init__(self) -> None:
        self.looks: list[Look] = []
        self.best: Look | None = None
        self.best_trained: Look | None = None
        self.said = ""
        self.since = -1
        self._base: dict[str, torch.Tensor] = {}
        self._best_losses = torch.zeros(0, 0)

    @property
    def base(self) -> Look | None:
        """The look before the first step."""
        return self.looks[0] if self.looks and self.looks[0].step == 0 else None

    def note(self, step: int, held_out: torch.Tensor, training: torch.Tensor) -> str | None:
        """Take in a look; a sentence, once, where it shows that the run overfits.

        Args:
            step: windows trained.
            held_out: losses [pairs, draws] of held-out pairs, the same at every look.
            training: of training pairs.
        """
        if self.looks and self.looks[-1].step == step:
            return None  # a resumed run looks again where it stopped
        if not self.looks:
            self._base = {"held_out": held_out.double(), "training": training.double()}
        look = Look(step, _mean(held_out), _mean(training))
        self.looks.append(look)
        if not held_out.numel():
            return None
        found = [why for why in (self._turned(look, held_out.double()), self._opened(look, held_out, training)) if why]
        if self.best is None or look.held_out < self.best.held_out:
            self.best, self._best_losses = look, held_out.double()
        if step and (self.best_trained is None or look.held_out < self.best_trained.held_out):
            self.best_trained = look
        if not found or self.said:
            return None
        self.said, self.since = "; ".join(found), step
        return f"overfits: at step {step} {self.said}"

    @property
    def overfits(self) -> bool | None:
        """Whether it was found; None where there is no held-out pair, so that nobody can know."""
        if self.best is None:
            return None
        return bool(self.said)

    def _turned(self, look: Look, losses: torch.Tensor) -> str | None:
        best = self.best
        if best is None or look.held_out <= best.held_out * (1.0 + RISE):
            return None
        rise = look.held_out / best.held_out - 1.0
        if rise < PLAIN_RISE and not _above(_units(losses - self._best_losses)):
            return None
        return (
            f"held-out loss has turned: {look.held_out:.4g}, {rise:.0%} above {best.held_out:.4g} "
            f"{'before the first step' if best.step == 0 else f'at step {best.step}'}"
        )

    def _opened(self, look: Look, held_out: torch.Tensor, training: torch.Tensor) -> str | None:
        if not training.numel() or self.base is None:
            return None
        unseen, seen = (
            _units((now.double().clamp_min(1e-12) / self._base[name].clamp_min(1e-12)).log())
            for name, now in (("held_out", held_out), ("training", training))
        )
        apart = float(unseen.mean() - seen.mean())
        if apart < -math.log1p(-GAP):
            return None
        plain = apart >= math.log1p(PLAIN_RISE)
        if not plain and not stats.ttest_ind(unseen, seen, equal_var=False, alternative="greater").pvalue <= LEVEL:
            return None
        return (
            f"the gap opens: pairs trained on have a loss of {look.training:.4g}, held-out ones of {look.held_out:.4g} "
            f"({self.looks[0].training:.4g} and {self.looks[0].held_out:.4g} before the first step)"
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and plain values."""
        return {
            "looks": [[look.step, look.held_out, look.training] for look in self.looks],
            "best": -1 if self.best is None else self.looks.index(self.best),
            "best_trained": -1 if self.best_trained is None else self.looks.index(self.best_trained),
            "said": self.said,
            "since": self.since,
            "base": dict(self._base),
            "best_losses": self._best_losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        self.looks = [Look(int(step), held_out, training) for step, held_out, training in state["looks"]]
        self.best, self.best_trained = (
            self.looks[state[name]] if state[name] >= 0 else None for name in ("best", "best_trained")
        )
        self.said, self.since = str(state["said"]), int(state["since"])
        self._base, self._best_losses = dict(state["base"]), state["best_losses"]


def _mean(losses: torch.Tensor) -> float:
    return float(losses.double().mean()) if losses.numel() else math.nan


def _units(values: torch.Tensor) -> torch.Tensor:
    """What counts as one observation: a pair's mean, or of few pairs each draw."""
    return values.mean(1) if len(values) >= FEW else values.flatten()


def _above(values: torch.Tensor) -> bool:
    """Whether the mean of ``values`` [N] is above 0 beyond chance."""
    if len(values) < 2:
        return False
    return bool(stats.ttest_1samp(values, 0.0, alternative="greater").pvalue <= LEVEL)
