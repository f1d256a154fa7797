"""A look at all samples of the training data before it is trained on: which of them cannot be used, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import group_of, upright_size
from memsieve.filtering.data.folder.source import FolderSource
from memsieve.filtering.data.held_out import held_out_groups, is_held_out
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.data.sources import open_source

__all__ = ["LookedOver", "look_over", "without_caption"]

_NAMED: Final = 5
"""Samples that are named; the others are counted."""


@dataclass(slots=True)
class LookedOver:
    """What a look found.

    Attributes:
        rows: samples looked at that are not held out.
        unusable: of those.
        named: key and reason of the first of them.
    """

    rows: int = 0
    unusable: int = 0
    named: list[tuple[str, str]] = field(default_factory=list)

    def add(self, key: str, reason: str) -> None:
        """Count an unusable sample."""
        self.unusable += 1
        if len(self.named) < _NAMED:
            self.named.append((key, reason))

    def stops(self, config: DataConfig) -> str | None:
        """Why a run on this data would stop, and the way out; None where it would not."""
        if self.unusable <= config.max_bad and self.unusable < max(self.rows, 1):
            return None
        shown = "; ".join(f"'{key}': {reason}" for key, reason in self.named)
        more = f"; and {self.unusable - len(self.named)} more" if self.unusable > len(self.named) else ""
        counted = f"{self.unusable} of {self.rows} samples of data.path cannot be used ({shown}{more})"
        if not self.rows:
            return "data.path: every sample is held out; lower data.held_out_fraction, or name more data"
        if self.unusable == self.rows:
            return f"{counted}: none can be trained on"
        return (
            f"{counted}, and data.max_bad is {config.max_bad}: the run would stop when it comes to them. Mend them or "
            f"take them out, or set data.max_bad: {self.unusable} to train without them"
        )


def look_over(config: DataConfig, tell: Callable[[int, int], None] = lambda done, total: None) -> LookedOver:
    """Read every sample's caption, and the header of its picture; held-out ones are left out.

    Pictures are not decoded: one whose header is whole and whose end is missing is found in training alone.

    Args:
        tell: called with the parts that are done and all parts.
    """
    source = open_source(config.path, config)
    away = held_out_groups(config)
    found = LookedOver()
    for part in range(len(source)):
        for raw in source.read(part):
            if raw.error is None and _is_held_out(raw, config, away):
                continue
            found.rows += 1
            if raw.error is not None:
                found.add(raw.key, raw.error)
            elif upright_size(raw.image) is None:
                found.add(raw.key, "its picture cannot be opened")
        tell(part + 1, len(source))
    return found


def without_caption(config: DataConfig) -> LookedOver:
    """The samples of an image folder whose captions cannot be used, by the captions alone: no picture is read."""
    source = FolderSource(config.path, config)
    found = LookedOver(rows=len(source))
    for index in range(len(source)):
        if (said := source.problem(index)) is not None:
            found.add(*said)
    return found


def _is_held_out(raw: RawRow, config: DataConfig, away: frozenset[str] | None) -> bool:
    group = group_of(raw, config)
    return group in away if away is not None else is_held_out(group, config.held_out_fraction)
