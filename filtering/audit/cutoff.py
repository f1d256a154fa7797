"""Above which score a pair is taken out: the rule that a person gave, and the cut-off that follows from the scores."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from memsieve.filtering.audit.table import Array, Scores
from memsieve.filtering.conformal import critical_value, smallest_reference
from memsieve.filtering.evidence.null import ordinary_cutoff
from memsieve.filtering.settings import SettingsError
from memsieve.filtering.statistics import median_and_spread

__all__ = ["Rule", "best_of_content", "contents_of", "cutoff_of"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What is taken out, besides samples that cannot be used. Scores are compared per pair: an image's highest."""

    signals: tuple[str, ...] = ()
    """See ``pair_scores``; empty takes magnitude, or reference_ratio where there is a reference."""
    drop_fraction: float | None = None
    """Share of pairs (distinct images), those with the highest scores, with all their copies."""
    max_score: float | None = None
    """Pairs that score higher."""
    false_drop_rate: float | None = None
    """Pairs that score higher than all but this share of ordinary ones."""
    dedup: Literal["sha256", "phash"] | None = None
    """Keep the first of several samples with the same image bytes, or the same perceptual hash."""

    @property
    def by_score(self) -> bool:
        """Whether anything is taken out for its score."""
        return any(cut is not None for cut in (self.drop_fraction, self.max_score, self.false_drop_rate))

    def check(self) -> None:
        """Refuse a rule that takes nothing out, or contradicts itself.

        Raises:
            SettingsError: names the options.
        """
        cuts = [self.drop_fraction, self.max_score, self.false_drop_rate]
        if sum(cut is not None for cut in cuts) > 1:
            raise SettingsError("give one of --drop-fraction, --max-score and --false-drop-rate")
        if all(cut is None for cut in cuts) and self.dedup is None:
            raise SettingsError("give --drop-fraction, --max-score, --false-drop-rate or --dedup")
        for name, value in (("--drop-fraction", self.drop_fraction), ("--false-drop-rate", self.false_drop_rate)):
            if value is not None and not 0.0 < value < 1.0:
                raise SettingsError(f"{name} = {value} must lie between 0 and 1")


def contents_of(scores: Scores) -> Array:
    """A number per image content; rows without a readable image are -1."""
    codes = scores.table["sha256"].combine_chunks().dictionary_encode().indices
    return np.asarray(codes.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def best_of_content(values: Array, contents: Array) -> Array:
    """Every row's value raised to the highest of its image: a pair stands or falls as one."""
    best = np.full(int(contents.max(initial=-1)) + 1, -np.inf)
    known = (contents >= 0) & ~np.isnan(values)
    np.maximum.at(best, contents[known], values[known])
    spread = np.where(contents >= 0, best[contents], -np.inf) if len(best) else np.full(len(values), -np.inf)
    return np.where(np.isneginf(spread), np.nan, spread)


def cutoff_of(best: Array, contents: Array, null: Array | None, rule: Rule) -> float:
    """Pairs that score higher than this are taken out."""
    if rule.max_score is not None:
        return rule.max_score
    scored = (contents >= 0) & ~np.isnan(best)
    pairs = {int(content): float(score) for content, score in zip(contents[scored], best[scored], strict=True)}
    ordered = np.sort(np.array(list(pairs.values())))
    if not len(ordered):
        raise SettingsError("no sample of the audit has a score, so none can be taken out by it")
    if rule.drop_fraction is not None:
        count = round(rule.drop_fraction * len(ordered))
        # Equal scores fall together, on the side of keeping.
        return float(ordered[-count - 1]) if count < len(ordered) else -np.inf
    assert rule.false_drop_rate is not None
    rate = rule.false_drop_rate
    if null is None:
        middle, spread = median_and_spread(ordered)
        return float(middle + NormalDist().inv_cdf(1.0 - rate) * spread)
    held_out = np.sort(null[~np.isnan(null)])[::-1]
    if len(held_out) < smallest_reference(rate):
        raise SettingsError(
            f"--false-drop-rate {rate} needs at least {smallest_reference(rate)} held-out pairs with a score, and "
            f"there are {len(held_out)}"
        )
    return ordinary_cutoff(ordered, held_out, critical_value(held_out, rate))
