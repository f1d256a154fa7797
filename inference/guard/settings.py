"""What the guard's actions go by."""

from __future__ import annotations

from dataclasses import dataclass, field

from memsieve.inference.minimize.settings import MinimizeSettings

__all__ = ["GuardSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """What the guard's actions go by.

    Args:
        minimize: how embeddings are changed; all tokens move, since a call may give embeddings in place of a prompt.
        target: of ``minimize``; a low quantile of the ordinary prompts if left out, or half of a given threshold.
        fall: for ``delay``, the share of its peak below which the magnitude counts as fallen.
        space: as in detection.
        base_share: for ``base``, the share of the steps, from the first on, that the model before fine-tuning draws.

    Raises:
        ValueError: a number out of range, or tokens that the guard cannot choose.
    """

    minimize: MinimizeSettings = field(default_factory=MinimizeSettings)
    target: float | None = None
    fall: float = 0.7
    space: str = "auto"
    base_share: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.fall <= 1:
            raise ValueError(f"fall = {self.fall:g}: must be above 0 and at most 1")
        if not 0 < self.base_share <= 1:
            raise ValueError(f"base_share = {self.base_share:g}: must be above 0 and at most 1")
        if self.minimize.tokens != "all":
            raise ValueError(
                f"minimize.tokens = '{self.minimize.tokens}': must be all; a call may give embeddings in place of a "
                "prompt, and nothing then says which of them are words"
            )
