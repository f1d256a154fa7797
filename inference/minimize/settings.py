"""How an embedding is minimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["METHODS", "TOKENS", "MinimizeSettings"]

METHODS: Final = {"adamw": 0.05, "closest": 0.1}
"""And the ``lr`` of each: AdamW's, and the largest update as a share of the embedding's norm."""
TOKENS: Final = {"all": ("word", "end", "padding"), "words": ("word",), "padding": ("end", "padding")}
"""Kinds of positions that may move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimizeSettings:
    """How an embedding is minimised.

    Args:
        iterations: updates at most.
        lr: AdamW's, or with ``closest`` the largest update, as a share of the embedding's norm; the method's own in
            ``METHODS`` if left out.
        method: ``adamw`` or ``closest``.
        tokens: what moves: ``all``, the ``words``, or the end and the ``padding`` behind them. Pooled embeddings move
            with ``all`` alone.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    iterations: int = 30
    lr: float | None = None
    method: str = "adamw"
    tokens: str = "all"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"--method = '{self.method}': must be one of {', '.join(METHODS)}")
        if self.tokens not in TOKENS:
            raise ValueError(f"--tokens = '{self.tokens}': must be one of {', '.join(TOKENS)}")
        if self.iterations < 0:
            raise ValueError(f"--iterations = {self.iterations}: must be at least 0")
        if not self.learning_rate > 0:
            raise ValueError(f"--lr = {self.learning_rate:g}: must be above 0")

    @property
    def learning_rate(self) -> float:
        """``lr``, or the method's own."""
        return METHODS[self.method] if self.lr is None else self.lr
