"""What became of every sample read."""

from __future__ import annotations

from collections import Counter
from typing import Any

__all__ = ["Accounting"]


class Accounting:
    """Every sample read, once: read = trained + dropped + failed + held out + not kept + remainder.

    ``not_kept`` are the samples that ``data.keep_list`` takes out, by the reason that the list gives.
    """

    def __init__(self) -> None:
        self.read = 0
        self.trained = 0
        self.held_out = 0
        self.dropped: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.not_kept: Counter[str] = Counter()

    @property
    def balance(self) -> int:
        """What is read and not accounted for; 0 in a correct run."""
        away = sum(self.dropped.values()) + sum(self.failed.values()) + sum(self.not_kept.values())
        return self.read - self.trained - away - self.held_out

    def as_dict(self) -> dict[str, Any]:
        """For ``summary.json`` and checkpoints."""
        return {
            "read": self.read,
            "trained": self.trained,
            "dropped": dict(self.dropped),
            "failed": dict(self.failed),
            "held_out": self.held_out,
            "not_kept": dict(self.not_kept),
            "remainder": self.balance,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from ``as_dict``."""
        self.read, self.trained, self.held_out = int(state["read"]), int(state["trained"]), int(state["held_out"])
        self.dropped, self.failed = Counter(state["dropped"]), Counter(state["failed"])
        self.not_kept = Counter(state.get("not_kept", {}))

    def add(self, other: dict[str, Any]) -> None:
        """Add another rank's numbers."""
        self.read += int(other["read"])
        self.trained += int(other["trained"])
        self.held_out += int(other["held_out"])
        self.dropped.update(other["dropped"])
        self.failed.update(other["failed"])
        self.not_kept.update(other["not_kept"])
