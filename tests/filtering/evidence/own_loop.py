"""A loop of one's own around a filter, with as many held-out pairs as a test gives it."""

from __future__ import annotations

from typing import Any

import torch

from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.signals import Predictions
from memsieve.filtering.types import Visit


def run(held_out: list[str], rounds: int = 4, per_window: int = 4, **options: Any) -> MemorizationFilter:
    """A filter in a loop that gives it ``held_out`` in turn, ``rounds`` times."""
    sieve = MemorizationFilter(**{"signals": ["loss"], "record": [], **options})
    generator = torch.Generator().manual_seed(0)

    def measured(count: int) -> Any:
        noise = torch.zeros(count, 16)
        losses = torch.rand(count, 16, generator=generator)
        return sieve.measure(Predictions(noise, losses), torch.full((count,), 10))

    turns = held_out * rounds
    for start in range(0, len(turns) or per_window * 40, per_window):
        sieve.decide([Visit(f"c{i}") for i in range(4)], measured(4))
        if groups := turns[start : start + per_window]:
            sieve.calibrate(groups, measured(len(groups)))
        sieve.end_window()
    return sieve


def names(count: int) -> list[str]:
    return [f"h{i}" for i in range(count)]
