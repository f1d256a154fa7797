"""Held-out pairs that ride along in the training batches, at weight 0."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from memsieve.filtering.data.held_out import is_held_out
from memsieve.filtering.types import group_name

__all__ = ["HeldOutShare", "Turns"]

REPEATS: Final = 3
"""Held-out pairs that come again, one after the other, before a sweep ends: one alone may be a picture that the data
holds twice."""
PATIENCE: Final = 100
"""Visits of pairs that have come already, without a new one, after which a sweep ends where fewer are held out."""


class HeldOutShare:
    """Which keys are never trained on.

    Args:
        which: a share of all keys, picked by a hash that is the same in every run, or the keys themselves.

    Raises:
        ValueError: a share that is not in (0, 0.5).
    """

    def __init__(self, which: float | Collection[str]) -> None:
        self.share = which if isinstance(which, float | int) else None
        self.keys = frozenset() if isinstance(which, float | int) else frozenset(group_name(key) for key in which)
        if self.share is not None and not 0 < self.share < 0.5:
            raise ValueError(f"held_out = {which}: must be a share between 0 and 0.5, or the keys to hold out")

    def __contains__(self, key: str) -> bool:
        return key in self.keys if self.share is None else is_held_out(key, self.share)


class Turns:
    """When a sweep over the held-out pairs has ended, in a loop that says nothing of its epochs.

    A pair that comes again within a sweep is passed over, until several have, with no new one between them: then
    another epoch has begun.
    """

    def __init__(self) -> None:
        self.met: set[str] = set()
        self.again: dict[str, Any] = {}
        self.passed_over = 0

    def take(self, key: str, row: Any) -> list[tuple[str, Any]]:
        """The pairs to take in now that ``key`` has come: it, nobody, or those of a new sweep."""
        if key not in self.met:
            self.met.add(key)
            self.again, self.passed_over = {}, 0
            return [(key, row)]
        self.again.setdefault(key, row)
        self.passed_over += 1
        if len(self.again) < REPEATS and self.passed_over < PATIENCE:
            return []
        begun, self.again, self.passed_over = list(self.again.items()), {}, 0
        self.met = {name for name, _ in begun}
        return begun

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"met": sorted(self.met), "again": dict(self.again), "passed_over": self.passed_over}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly."""
        self.met, self.again = set(state["met"]), dict(state["again"])
        self.passed_over = int(state["passed_over"])
