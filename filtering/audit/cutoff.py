"""Above which score a pair is taken out: the rule that a person gave, and the cut-off that follows from the scores."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from memsieve.filtering.audit.table import Array
from memsieve.filtering.conformal import critical_value, smallest_reference
from memsieve.filtering.evidence.null import ordinary_cutoff
from memsieve.filtering.settings import SettingsError
from memsieve.filtering.statistics import median_and_spread

__all__ = ["Rule", "cutoff_of"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What is taken out, besides samples that cannot be used. Scores are compared per image: the mean over its rows,
    of the audit's own and of held-out images alike."""

    signals: tuple[str, ...] = ()
    """See ``score_pairs``; empty takes magnitude, or reference_ratio where there is a reference."""
    drop_fraction: float | None = None
    """Share of distinct images, those with the highest scores, with all their copies."""
    max_score: float | None = None
    """Images that score higher."""
    false_drop_rate: float | None = None
    """Images that score higher than all but this share of ordinary ones."""
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


def cutoff_of(scores: Array, held_out: Array | None, rule: Rule) -> float:
    """Images that score higher than this are taken out.

    Args:
        scores: one of each image, float64 [N]; sorted in place.
        held_out: one of each held-out image, float64 [M], for ``false_drop_rate``.
        rule: asks for a cut-off by score.

    Raises:
        SettingsError: there is no score, or there are too few held-out images for the rate.
    """
    if rule.max_score is not None:
        return rule.max_score
    scores.sort()
    if not len(scores):
        raise SettingsError("no sample of the audit has a score, so none can be taken out by it")
    if rule.drop_fraction is not None:
        count = round(rule.drop_fraction * len(scores))
        # Equal scores fall together, on the side of keeping.
        return float(scores[-count - 1]) if count < len(scores) else -np.inf
    assert rule.false_drop_rate is not None
    rate = rule.false_drop_rate
    if held_out is None:
        middle, spread = median_and_spread(scores)
        return float(middle + NormalDist().inv_cdf(1.0 - rate) * spread)
    descending = np.sort(held_out)[::-1]
    if len(descending) < smallest_reference(rate):
        raise SettingsError(
            f"--false-drop-rate {rate} needs at least {smallest_reference(rate)} held-out pairs with a score, and "
            f"there are {len(descending)}"
        )
    return ordinary_cutoff(scores, descending, critical_value(descending, rate))
