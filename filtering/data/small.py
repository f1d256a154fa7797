"""The training pairs of a small set, decoded: what a model is asked about, and what its drawings are compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import BadSample, decode_row, group_of
from memsieve.filtering.data.held_out import HELD_OUT_STREAM, held_out_groups, is_held_out
from memsieve.filtering.data.rows import Row, content_id
from memsieve.filtering.data.sources import Source, open_source
from memsieve.filtering.types import group_name

__all__ = ["MOST", "TrainingPairs", "training_pairs"]

MOST: Final = 512
"""Pictures of a set that is asked about pair by pair: their latents wait in memory, 16 to 256 KB each, and a round of
drawings takes as long as ten passes."""


@dataclass(slots=True)
class TrainingPairs:
    """Distinct pictures of the training data, in the order of the source.

    Attributes:
        rows: one of each picture, centre-cropped, never mirrored, with its first caption.
        captions: all captions of each group, by the name that evidence adds up under.
        whole: there are no further pictures.
        rows_read: samples that can be trained on, repeats among them.
        without_caption: of those.
        repeats: rows of each group.
    """

    rows: list[Row] = field(default_factory=list)
    captions: dict[str, list[str]] = field(default_factory=dict)
    whole: bool = True
    rows_read: int = 0
    without_caption: int = 0
    repeats: Counter[str] = field(default_factory=Counter)

    def with_groups(self, config: DataConfig, groups: Collection[str]) -> TrainingPairs:
        """These and all of ``groups``, wherever in the training data of ``config`` they are."""
        if self.whole:
            return self
        more = training_pairs(config, len(self.rows), among=frozenset(groups))
        pictures = {(group_name(row.group), row.key): row for row in [*self.rows, *more.rows]}
        captions, repeats = self.captions | more.captions, self.repeats | more.repeats
        return TrainingPairs(list(pictures.values()), captions, False, self.rows_read, self.without_caption, repeats)

    @property
    def of_caption(self) -> dict[str, list[str]]:
        """The groups that have each caption; no caption is none."""
        found: dict[str, list[str]] = {}
        for group, captions in self.captions.items():
            for caption in captions:
                found.setdefault(caption, []).append(group)
        return found


def training_pairs(
    config: DataConfig,
    most: int = MOST,
    source: Source | None = None,
    away: frozenset[str] | None = None,
    among: frozenset[str] | None = None,
) -> TrainingPairs:
    """The first ``most`` pictures of the training source that are not held out.

    Rows that cannot be used are left to training to report.

    Args:
        source: where it is open already.
        away: the groups of ``data.held_out_path``, where they are known already.
        among: these groups alone, by the names that evidence adds up under.
    """
    source = source or open_source(config.path, config)
    plain = config.model_copy(update={"crop": "center", "flip": False})
    away = held_out_groups(config) if away is None else away
    found, pictures = TrainingPairs(), set[str]()
    for raw in (raw for part in range(len(source)) for raw in source.read(part)):
        if raw.error is not None:
            continue
        group = group_of(raw, config)
        if group in away if away is not None else is_held_out(group, config.held_out_fraction):
            continue
        if among is not None and group_name(group) not in among:
            continue
        picture = content_id(raw.image)
        if picture not in pictures:
            if len(pictures) >= most:
                found.whole = False
                return found
            try:
                found.rows.append(decode_row(raw, plain, HELD_OUT_STREAM, 0, len(pictures), 0))
            except BadSample:
                continue
            pictures.add(picture)
        known = found.captions.setdefault(group_name(group), [])
        known += [text for text in dict.fromkeys(raw.all_captions) if text and text not in known]
        found.rows_read += 1
        found.repeats[group_name(group)] += 1
        found.without_caption += not any(raw.all_captions)
    return found
