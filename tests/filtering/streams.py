"""Synthetic streams whose truth is known, through a filter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.signals import Predictions
from memsieve.filtering.types import Decision, Visit


def batch(losses: list[float], dim: int = 64) -> Predictions:
    """Predictions whose ``loss`` is given, and whose magnitude is its square root times eight."""
    noise = torch.zeros(len(losses), dim)
    return Predictions(noise, torch.tensor(losses).sqrt()[:, None].expand(-1, dim), noise)


class Stream:
    """Clean groups with a persistent effect each (some are simply easy), held-out ones alike, planted ones beyond."""

    def __init__(self, seed: int, between: float = 0.3, shift: float = 1.5, held_out: int = 120) -> None:
        self.rng = np.random.default_rng(seed)
        self.effects: dict[str, float] = {}
        self.between, self.shift = between, shift
        self.held_out = [f"h{i}" for i in range(held_out)]
        self.turn = 0

    def losses(self, groups: list[str]) -> list[float]:
        values = []
        for group in groups:
            effect = self.effects.setdefault(group, float(self.rng.normal() * self.between))
            planted = self.shift if group.startswith("p") else 0.0
            values.append(float(np.exp(self.rng.normal() + effect - planted)))
        return values

    def window(self, filter: MemorizationFilter, groups: list[str]) -> Decision:
        t = torch.from_numpy(self.rng.integers(0, 1000, len(groups)))
        measured = filter.measure(batch(self.losses(groups)), t)
        visits = [Visit(g, group=g, offset=i) for i, g in enumerate(groups)]
        decision = filter.decide(visits, measured)
        chosen = [self.held_out[(self.turn + i) % len(self.held_out)] for i in range(8)]
        self.turn += 8
        t = torch.from_numpy(self.rng.integers(0, 1000, 8))
        filter.calibrate(chosen, filter.measure(batch(self.losses(chosen)), t))
        filter.end_window()
        return decision


def make(**options: Any) -> MemorizationFilter:
    return MemorizationFilter(**{"signals": ["loss"], "record": [], "false_drop_rate": 0.02, **options})
