"""What a guard says of a call, how it refuses, and the random state that it puts back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["GuardReport", "MemorizationRefused", "MemorizationWarning", "random_state", "restore_random_state"]


class MemorizationWarning(UserWarning):
    """A prompt stands out as memorised ones do; sampling went on."""


class MemorizationRefused(RuntimeError):
    """A prompt stands out as memorised ones do, and the guard's action is ``refuse``; ``report`` says what was seen."""

    def __init__(self, message: str, report: GuardReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(slots=True)
class GuardReport:
    """The last call: ``magnitudes[k]`` holds each image's at step k, ``flagged`` which passed ``threshold`` at step 0.

    ``drift`` is each image's at step 0 where the guard knows the model before fine-tuning: it is then what passes the
    threshold. ``released`` is the step at which guidance came back for each image (action ``delay``: 0 if never held,
    None if it never came back). ``minimized`` is what each image came to by minimisation, magnitude or
    drift (NaN where there was none).
    """

    threshold: float = math.nan
    flagged: list[bool] = field(default_factory=list)
    magnitudes: list[list[float]] = field(default_factory=list)
    released: list[int | None] = field(default_factory=list)
    minimized: list[float] = field(default_factory=list)
    drift: list[float] = field(default_factory=list)


def random_state(generator: Any) -> Any:
    """The state of the call's generators, or of the global ones."""
    if generator is None:
        return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return [g.get_state() for g in (generator if isinstance(generator, list) else [generator])]


def restore_random_state(state: Any, generator: Any) -> None:
    if generator is not None:
        for g, saved in zip(generator if isinstance(generator, list) else [generator], state, strict=True):
            g.set_state(saved)
        return
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
