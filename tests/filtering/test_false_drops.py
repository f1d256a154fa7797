"""The false-drop rate over a pair's whole life, on streams whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.false_drops.streams import Outcome, Run, Setting, simulate
from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.evidence.table import HALF_LIFE, MIN_SWEEPS, EvidenceTable
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.rules import EvidenceRule, WindowEnd

SMALL = Setting(visits=64, clean=72, planted=8)


def beyond(outcomes: list[Outcome], rate: float) -> bool:
    """Whether the realised rate lies above ``rate`` by more than two standard errors over seeds, or by half."""
    values = np.array([outcome.condemned for outcome in outcomes])
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(values.mean()) > rate + min(2 * error, rate / 2)


@pytest.mark.parametrize("setting", [SMALL, replace(SMALL, budget=1.0)], ids=["batch", "sieve"])
def test_clean_pairs_are_dropped_at_the_rate_and_planted_ones_are_found(setting: Setting) -> None:
    outcomes = [simulate(replace(setting, rate=0.1), seed) for seed in range(4)]
    assert not beyond(outcomes, 0.1)
    found = [value for outcome in outcomes for value in outcome.exposures if value is not None]
    assert len(found) >= 6, "of 32 whose effect is one and a half standard deviations at the end"


def test_training_pairs_that_are_all_a_little_easier_are_not_condemned_for_it() -> None:
    """Half a standard deviation of a visit between training and held-out pairs is more than one of pairs."""
    outcomes = [simulate(replace(SMALL, rate=0.1, drift="easier", gap=0.5), seed) for seed in range(4)]
    assert not beyond(outcomes, 0.1)


def swept(groups: EvidenceTable, held_out: HeldOutPairs) -> WindowEnd:
    """A window after which all groups are tested."""
    return WindowEnd(groups, np.zeros(0, dtype=np.int64), held_out, Exchange(), True, len(groups), 4)


def test_suspects_that_are_measured_most_are_not_taken_for_what_is_ordinary() -> None:
    """At the loader a schedule measures suspicious groups at every visit and ordinary ones once in a while."""
    rng = np.random.default_rng(2)
    config = FilterConfig(apply="sieve", signals=["loss"], record=[])
    known, groups = HeldOutPairs(config), EvidenceTable(HALF_LIFE, MIN_SWEEPS)
    rule = EvidenceRule(config, known)
    held_out = [f"held {i}" for i in range(128)]
    for sweep in range(5):
        known.observe(held_out, rng.normal(size=128), sweep)
    suspects, others = [f"suspect {i}" for i in range(60)], [f"other {i}" for i in range(400)]
    for visit in range(4):
        groups.observe(suspects, rng.normal(5.0, 1.0, 60), np.full(60, np.nan), visit, visit)
        scores = rng.normal(0.3, 1.0, 400) if visit == 3 else np.full(400, np.nan)
        groups.observe(others, scores, np.full(400, np.nan), visit, visit)
    rule.test_and_condemn(swept(groups, known))
    assert set(rule.latest) == set(suspects)
    assert known.ordinary.median < 1.0 and known.ordinary.median < known.bar()


def test_pairs_that_are_still_denoised_worse_than_most_are_spared() -> None:
    """Pairs in a rare style: far better than before, for the style was learned, and still bad. Once their loss has
    come down they are judged by what follows, not by looks that did not count."""
    rng = np.random.default_rng(6)
    for limit, expected in ((0.5, {"learned"}), (None, {"learned", "hard"})):
        config = FilterConfig(spare_above=limit, record=[], max_drop_fraction=1.0)
        known, groups = HeldOutPairs(config), EvidenceTable(HALF_LIFE, MIN_SWEEPS)
        rule = EvidenceRule(config, known)
        for sweep in range(5):
            known.observe([f"held {i}" for i in range(128)], rng.normal(size=128), sweep)
        nobody = np.full(2, np.nan)
        for visit in range(4):
            groups.observe(["learned", "hard"], np.full(2, 6.0), nobody, visit, visit, np.array([1.0, -2.0]))
        rule.test_and_condemn(swept(groups, known))
        assert set(rule.latest) == expected
        if limit is None:
            continue
        row = np.array([groups.row("hard")])
        assert groups["evidence"][row] > known.bar() and groups["p_value"][row] < 0.01, "measured at every visit"
        assert rule.spared == 0.5
        for visit in range(4, 60):
            groups.observe(["hard"], np.zeros(1), nobody[:1], visit, visit, np.array([2.0]))
        rule.test_and_condemn(WindowEnd(groups, row, known, Exchange(), False, len(groups), 60))
        assert groups.level(row) > 0.0 and not rule.latest, "what it was does not count now"
        assert groups["p_value"][row] > 0.1


def test_when_everything_is_memorised_the_run_says_so() -> None:
    """A hundred pairs, all planted: nothing is beyond the others, and the run is overfitting as a whole. Twenty
    pairs: too few to say what is ordinary, and ``max_drop_fraction`` of them are condemned."""
    many = simulate(replace(SMALL, clean=0, planted=96, visits=120), 0)
    assert many.overfitting and sum(value is not None for value in many.exposures) <= 0.3 * 96
    run = Run(replace(SMALL, clean=0, planted=20, visits=100), 0, max_drop_fraction=0.5)
    for _ in range(run.stream.windows):
        run.window()
    assert run.filter.overfitting and len(run.filter.condemned) == 10


def test_too_few_held_out_pairs_for_the_rate_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs at least 99 held-out groups \(resolution 1/\(n\+1\)\)"):
        simulate(replace(SMALL, held_out=64, rate=0.01), 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "change",
    [{"correlation": 0.0}, {"correlation": 0.3}, {"tails": "heavy"}, {"order": "repeats"}, {"drift": "easier"},
     {"budget": 0.25}, {"budget": 1.0, "drift": "easier"}, {"held_out": 512}],
    ids=str,
)  # fmt: skip
def test_the_rate_holds(change: dict[str, float | str]) -> None:
    outcomes = [simulate(replace(Setting(), **change), seed) for seed in range(5)]  # type: ignore[arg-type]
    assert not beyond(outcomes, 0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "change",
    [{}, {"budget": 0.25}, {"sooner": 3}, {"budget": 0.25, "sooner": 3}, {"unlike": 0.8}],
    ids=str,
)
def test_the_rate_holds_where_pairs_come_round_three_times_as_often(change: dict[str, float]) -> None:
    """Nothing planted, and every visit teaches a pair what it teaches a planted one, some more and some less. Those
    that would come back are counted apart."""
    often = Setting(planted=0, clean=300, rate=0.05, drift="learned", gap=2.5, visits=30, unlike=0.5)
    outcomes = [simulate(replace(often, **change), seed) for seed in range(5)]  # type: ignore[arg-type]
    assert not beyond(outcomes, 0.05)
    assert sum(outcome.returning[0] for outcome in outcomes) > 0
