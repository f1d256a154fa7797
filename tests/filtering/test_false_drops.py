"""The false-drop rate over a pair's whole life, on streams whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from benchmarks.false_drops.streams import Outcome, Run, Setting, simulate
from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.evidence.null import MIN_GROUPS, Means, Ordinary, ordinary_of
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


def fit(training: np.ndarray, held_out: np.ndarray, exchange: Exchange | None = None, rare: int = 0) -> Ordinary:
    """Of groups with unit spread, all of them measured."""
    both = (Means(values, np.ones(len(values))) for values in (training, held_out))
    return ordinary_of(*both, exchange or Exchange(), len(training), rare)


def test_what_is_ordinary_is_moved_and_scaled_and_a_few_memorised_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    held_out = rng.normal(size=4000)
    training = np.concatenate([0.8 + 1.4 * rng.normal(size=4000), np.full(80, 9.0)])
    ordinary, one = fit(training, held_out), np.ones(len(training))
    assert ordinary.shift == pytest.approx(0.8, abs=0.1) and ordinary.scale == pytest.approx(1.4, rel=0.1)
    moved = ordinary(training, one)
    assert np.quantile(moved[:4000], 0.95) == pytest.approx(np.quantile(held_out, 0.95), abs=0.2)
    assert moved[-1] > 5.0 and (moved <= training).all()
    crowd = np.concatenate([training, 9.0 + rng.normal(size=1300)])  # a quarter is memorised: the upper half is wide
    z, share = NormalDist().inv_cdf, len(crowd) / 4000
    widened = 1.4 * (z(0.625 * share) - z(0.25 * share)) / (z(0.625) - z(0.25))
    beside = fit(crowd, held_out)
    assert beside.scale == pytest.approx(widened, rel=0.05), "not what the memorised ones come to"
    moved = beside(crowd, np.ones(len(crowd)))
    assert np.quantile(moved[-1300:], 0.01) > np.quantile(moved[:4000], 0.99)
    tamer = fit(-1.0 + 0.5 * rng.normal(size=4000), held_out)
    assert np.allclose(tamer(training, one), training, rtol=0.0, atol=1e-12), "only ever against condemning"
    assert fit(training[: MIN_GROUPS - 1], held_out) == Ordinary()
    assert fit(training, held_out, rare=len(training) - 1) == ordinary
    assert fit(training, held_out, rare=len(training)) == Ordinary(), "most come round too rarely"


def test_the_move_is_as_large_as_a_groups_own_visits_make_it() -> None:
    """An advantage of every visit counts more in the evidence of a group that was measured often. Most groups were
    measured once: their middle says how large it is, and those that are compared are moved by more than theirs."""
    rng = np.random.default_rng(3)
    within, between, gain = 0.9, 0.1, 0.4
    visits = np.where(rng.random(6000) < 0.7, 1, 8)
    spreads = np.sqrt(between + within / visits)
    held_out = Means(
        np.sqrt(between + within / 40) * rng.normal(size=2000), np.full(2000, np.sqrt(between + within / 40))
    )
    training = Means(gain + spreads * rng.normal(size=6000), spreads)
    ordinary = ordinary_of(training, held_out, Exchange(), 6000, 0)
    moved = ordinary(training.evidence, spreads)
    assert ordinary.shift == pytest.approx(gain, abs=0.05)
    for count in (1, 8):
        assert np.mean(moved[visits == count] > 1.645) == pytest.approx(0.05, abs=0.012)


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


def test_the_fit_does_not_depend_on_the_ranks() -> None:
    class Sharing(Exchange):
        """Adds what another rank counted, call by call."""

        def __init__(self, other: list[list[float]]) -> None:
            super().__init__()
            self.other, self.given = iter(other), list[list[float]]()

        def sum(self, values: list[float]) -> list[float]:
            self.given.append(values)
            return [a + b for a, b in zip(values, next(self.other, [0.0] * len(values)), strict=True)]

    rng = np.random.default_rng(1)
    training, held_out = rng.normal(0.5, 1.5, 300), rng.normal(size=128)
    first = Sharing([])
    fit(training[:100], held_out, first)
    second = Sharing(first.given[:1])
    fit(training[100:], held_out, second)
    together = fit(training, held_out)
    assert fit(training[:100], held_out, Sharing(second.given)) == together and together.scale > 1.2


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
