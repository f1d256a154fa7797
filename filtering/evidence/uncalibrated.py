"""What a person is told where held-out pairs are missing or too few: else nobody would be condemned, without a word."""

from __future__ import annotations

import warnings
from typing import Final

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPairs

__all__ = ["PATIENCE", "Uncalibrated"]

PATIENCE: Final = 20
"""Windows without a held-out pair after which a filter that needs some says so."""


class Uncalibrated:
    """Refuses, or where nobody would be dropped anyway says, that held-out pairs are too few.

    Args:
        config: the settings.
        held_out: those that there are.
    """

    def __init__(self, config: FilterConfig, held_out: HeldOutPairs) -> None:
        self.config, self.held_out = config, held_out
        self._told = False

    def say(self, step: int, rule: str, needed: bool, short: bool) -> None:
        """After ``step`` windows.

        Args:
            step: of them.
            rule: its name.
            needed: it drops nobody without held-out pairs.
            short: on some rank they have all been met and are too few.

        Raises:
            ValueError: they are too few, and the policy acts.
        """
        config, count = self.config, len(self.held_out)
        if needed and config.policy != "cap" and step == PATIENCE and not count:
            warnings.warn(
                f"no held-out pair was given in {step} windows, and the rule '{rule}' drops nobody without: "
                "call calibrate beside each batch (LoopFilter: raise held_out), or set rule to 'z_score'",
                stacklevel=3,
            )
        if not short or self._told:
            return
        why = self.held_out.shortage or (
            "too few held-out pairs on another rank: give calibrate the same ones on every rank"
        )
        if config.policy != "observe":
            raise ValueError(why)
        self._told = True
        warnings.warn(why, stacklevel=3)
