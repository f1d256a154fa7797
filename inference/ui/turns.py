"""What a press of a button does to both sides of the page, without the page: their cards, images and neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from memsieve.inference.ui.inspect import Inspector, Report, pictures
from memsieve.inference.ui.side import Side

__all__ = ["Turns"]

Shown = tuple[Side, str, Any, Any]
"""A side of the page: its state, its card, its images, and the training images nearest to them."""
EMPTY: Shown = (Side(), "", [], "")


class Turns:
    """The buttons of the page. A side's card always speaks of the images that stand below it.

    Args:
        keep: what leaves images and neighbours as they are, as the page wants it.
    """

    def __init__(self, inspector: Inspector, keep: Any) -> None:
        self.inspector, self.keep = inspector, keep

    def check(self, prompt: str, left: Side) -> tuple[str, Shown, Shown]:
        """The prompt for the edit box, and both sides; the right one is empty."""
        now = left.of(self.inspector.inspect(prompt))
        assert now.found is not None
        return now.found.prompt, self._measured(now), EMPTY

    def compare(self, left: Side, right: Side, edited: str) -> Shown:
        """The right side: another wording, measured with the left one's noise."""
        original = left.found
        now = right.of(self.inspector.inspect(edited, original.prompt if original is not None else None))
        return self._measured(now, original.score if original is not None else 0.0)

    def draw(
        self, prompt: str, edited: str, left: Side, count: float, steps: float, report: Report
    ) -> tuple[Shown, Shown]:
        """Both sides drawn from the same noise; the right one is empty where nothing was edited."""
        text = prompt.strip()
        now = self._known(prompt, left)
        first = self._drawn(now, self.inspector.draw(prompt, count, steps, report), "As it is")
        if not edited.strip() or edited.strip() == text:
            return first, EMPTY
        assert now.found is not None
        other = Side(self.inspector.inspect(edited, text))
        images = self.inspector.draw(edited, count, steps, report, text)
        return first, self._drawn(other, images, "Edited, from the same noise", now.found.score)

    def minimise(
        self, prompt: str, left: Side, count: float, steps: float, updates: float, report: Report
    ) -> tuple[Shown, Shown]:
        """The prompt as it is on the left, minimised on the right."""
        now = self._known(prompt, left)
        result, before, after = self.inspector.minimise(prompt, count, steps, updates, report)
        drawn, near = self.inspector.nearest(after, "Minimised, from the same noise")
        card = self.inspector.minimised_card(result, drawn)
        return self._drawn(now, before, "As it is"), (Side(), card, pictures(after), near)

    def _known(self, prompt: str, side: Side) -> Side:
        """A side whose prompt is measured, and was before where it is the same."""
        if side.found is not None and side.found.prompt == prompt.strip():
            return side
        return side.of(self.inspector.inspect(prompt))

    def _measured(self, side: Side, beside: float = 0.0) -> Shown:
        """Images of another prompt must not stand below this one's card."""
        images, near = ([], "") if side.drawn is None else (self.keep, self.keep)
        return side, self.inspector.card(side, beside), images, near

    def _drawn(self, side: Side, images: Tensor, what: str, beside: float = 0.0) -> Shown:
        drawn, near = self.inspector.nearest(images, what)
        now = replace(side, drawn=drawn)
        return now, self.inspector.card(now, beside), pictures(images), near
