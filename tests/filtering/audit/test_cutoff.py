"""Above which score a pair is taken out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memsieve.filtering.audit.cutoff import Rule, cutoff_of
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.select import select_rows
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.keep_lists import rescore

Audit = Callable[..., Outcome]


def test_held_out_rate_is_the_conformal_one(audit: Audit, make_shards: Callable[..., Path], tmp_path: Path) -> None:
    make_shards(tmp_path / "train", 20, per_shard=20)
    make_shards(tmp_path / "held", 19, per_shard=20, first=500)
    audit(tmp_path / "train", tmp_path / "run", draws=1)
    audit(tmp_path / "held", tmp_path / "held-run", draws=1)
    rescore(tmp_path / "held-run", lambda row, i: row | {"magnitude": [float(i)]})  # 0 ... 18
    rescore(tmp_path / "run", lambda row, i: row | {"magnitude": [float(i)]})
    for rate in (0.05, 0.1, 0.25):
        expected = [(1 + sum(h >= m for h in range(19))) / 20 > rate for m in range(20)]
        with select_rows(tmp_path / "run", Rule(false_drop_rate=rate), held_out=tmp_path / "held-run") as selection:
            assert selection.table["keep"].to_pylist() == expected, rate


def test_held_out_rate_allows_for_what_training_did_to_all(
    audit: Audit, make_shards: Callable[..., Path], tmp_path: Path
) -> None:
    """Ordinary training pairs lie a little above held-out ones and farther apart; a few pairs lie far above them."""
    make_shards(tmp_path / "train", 60, per_shard=60)
    make_shards(tmp_path / "held", 39, per_shard=39, first=500)
    audit(tmp_path / "train", tmp_path / "run", draws=1)
    audit(tmp_path / "held", tmp_path / "held-run", draws=1)
    rescore(tmp_path / "held-run", lambda row, i: row | {"magnitude": [float(i)]})  # 0 ... 38, median 19

    def trained(row: dict[str, Any], i: int) -> dict[str, Any]:
        value = 20.0 + 1.5 * (i % 57) if i < 57 else 500.0  # 20 ... 104, and three memorised
        return row | {"magnitude": [value]}

    rescore(tmp_path / "run", trained)
    with select_rows(tmp_path / "run", Rule(false_drop_rate=0.05), held_out=tmp_path / "held-run") as selection:
        keep = selection.table["keep"].to_pylist()
    assert keep == [i < 57 for i in range(60)]
    plain = max(float(i) for i in range(39)) - 1.0  # the cut among held-out pairs: one of 39 may score as high
    assert selection.cutoff is not None and selection.cutoff > plain + 40, "most would lie above it"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(), "give --drop-fraction"),
        (Rule(drop_fraction=0.1, max_score=1.0), "give one of"),
        (Rule(drop_fraction=1.5), "--drop-fraction = 1.5 must lie between 0 and 1"),
        (Rule(drop_fraction=0.0), "--drop-fraction = 0.0 must lie between 0 and 1"),
        (Rule(false_drop_rate=1.0), "--false-drop-rate = 1.0 must lie between 0 and 1"),
        (Rule(false_drop_rate=0.1, max_score=0.0, dedup="sha256"), "give one of"),
    ],
)
def test_rules_that_make_no_sense(rule: Rule, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        select_rows(tmp_path, rule)


@pytest.mark.parametrize(
    ("rule", "by_score"),
    [
        (Rule(dedup="phash"), False),
        (Rule(max_score=0.0), True),  # 0 is a score as any other, and so is what lies below it
        (Rule(max_score=-1.5, dedup="sha256"), True),
        (Rule(drop_fraction=0.01), True),
        (Rule(false_drop_rate=0.99), True),
    ],
)
def test_a_rule_that_makes_sense_says_whether_it_goes_by_score(rule: Rule, by_score: bool) -> None:
    rule.check()
    assert rule.by_score is by_score


def test_the_cutoff_of_each_rule() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(11.0))
    assert cutoff_of(scores, None, Rule(max_score=3.5)) == 3.5
    assert cutoff_of(scores, None, Rule(drop_fraction=0.2)) == 8.0, "9 and 10 lie above it"
    rough = cutoff_of(scores, None, Rule(false_drop_rate=0.5))
    assert rough == pytest.approx(5.0), "half of what is normal about the median"
    with pytest.raises(SettingsError, match="no sample of the audit has a score"):
        cutoff_of(np.zeros(0), None, Rule(drop_fraction=0.2))
    with pytest.raises(SettingsError, match=r"--false-drop-rate 0.1 needs at least 9 held-out pairs .* there are 3"):
        cutoff_of(scores, np.arange(3.0), Rule(false_drop_rate=0.1))


def test_equal_scores_fall_on_the_side_of_keeping() -> None:
    scores = np.array([1.0, 2.0, 2.0, 2.0])
    assert not (scores > cutoff_of(scores, None, Rule(drop_fraction=0.5))).any()
