"""One side of the page: a prompt as it was measured, and what was drawn of it."""

from __future__ import annotations

from dataclasses import dataclass

from memsieve.inference.explain.explain import WordScore
from memsieve.inference.ui.verdict import Drawn

__all__ = ["Inspection", "Side"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A prompt beside ordinary ones; ``cut`` is the end that the text encoder does not read."""

    prompt: str
    score: float
    p: float
    flagged: bool
    words: list[WordScore]
    cut: str


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the page: a prompt as it was measured, and what was drawn of it."""

    found: Inspection | None = None
    drawn: Drawn | None = None

    def of(self, found: Inspection) -> Side:
        """With a measurement; what was drawn stays where it was drawn for the same prompt."""
        same = self.found is not None and self.found.prompt == found.prompt
        return Side(found, self.drawn if same else None)
