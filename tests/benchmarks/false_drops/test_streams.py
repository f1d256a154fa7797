"""Synthetic streams are what their settings say: effects, drifts, orders, and who is skipped when."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from benchmarks.false_drops.run import OFTENER, SETTINGS
from benchmarks.false_drops.streams import FILLER, ROWS, Run, Setting, Stream, simulate
from memsieve.filtering.data.loader_sieve import DELAY

MANY = Setting(clean=2000, planted=1000, held_out=2000, correlation=0.3)


def effects(stream: Stream, groups: list[str]) -> np.ndarray:
    """One visit each, in standard deviations: location and scale of its t taken out."""
    x, t = stream.scores(groups)
    return np.asarray((x - t / 250) / (0.1 * (1 + t / 500)))


def clean(stream: Stream) -> list[str]:
    return [name for name in stream.names if name.startswith("c")]


def test_every_setting_has_a_name_of_its_own() -> None:
    """Cells are files by that name."""
    assert len({setting.name for setting in [*SETTINGS, *OFTENER]}) == len(SETTINGS) + len(OFTENER)
    assert Setting().name == "batch" and Setting(budget=0.25, gap=0.3).name == "sieve 0.25, gap 0.3"


@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_visits_have_unit_spread_and_two_of_a_pair_correlate_as_set(tails: str) -> None:
    stream = Stream(replace(MANY, tails=tails), 0)
    first, second = (effects(stream, clean(stream) * 5) for _ in range(2))
    assert np.mean(first) == pytest.approx(0.0, abs=0.1)
    if tails == "normal":
        assert np.std(first) == pytest.approx(1.0, abs=0.05)
        assert np.corrcoef(first, second)[0, 1] == pytest.approx(0.3, abs=0.06)
    else:
        assert np.mean(np.abs(first) > 4.0) > 0.001, "beyond four standard deviations a normal tail has .00006"


def test_planted_effects_grow_to_two_standard_deviations_by_eighty_exposures() -> None:
    stream = Stream(MANY, 0)
    planted = [name for name in stream.names if name.startswith("p")]
    means = []
    for exposures in (0, 40, 80, 400):
        stream.trained.update(dict.fromkeys(planted, exposures))
        means.append(np.mean(effects(stream, planted * 4)))
    assert means == pytest.approx([0.0, 1.0, 2.0, 2.0], abs=0.12)


@pytest.mark.parametrize(("drift", "training", "held"), [("none", 0, 0), ("common", 2, 2), ("easier", 0.5, 0)])
def test_a_drift_moves_whom_it_says(drift: str, training: float, held: float) -> None:
    stream = Stream(replace(MANY, drift=drift, gap=0.5), 0)
    stream.progress = 1.0
    assert np.mean(effects(stream, clean(stream) * 2)) == pytest.approx(training, abs=0.1)
    assert np.mean(effects(stream, stream.held_out * 2)) == pytest.approx(held, abs=0.1)


def test_in_epochs_everybody_comes_once_and_with_repeats_some_ten_times_as_often() -> None:
    stream = Stream(Setting(), 0)
    epoch = list(islice(stream.order(), 2 * len(stream.names)))
    assert set(Counter(epoch).values()) == {2} and set(epoch[: len(stream.names)]) == set(stream.names)
    counts = Counter(islice(Stream(Setting(order="repeats"), 0).order(), 100 * 200))
    often, seldom = np.quantile(list(counts.values()), [0.95, 0.05])
    assert 4.0 < often / seldom < 12.0


def test_equal_seeds_give_equal_outcomes_and_others_others() -> None:
    small = Setting(visits=12, clean=56, planted=8)
    assert simulate(small, 0) == simulate(small, 0) != simulate(small, 1)


def test_who_is_condemned_passed_the_rate_and_a_stricter_rate_passes_fewer() -> None:
    outcome = simulate(Setting(visits=40, clean=88, planted=8, rate=0.1, drift="easier", gap=2.0), 0)
    assert 0.0 < outcome.condemned <= outcome.passed["0.1"]
    assert outcome.passed["0.01"] <= outcome.passed["0.05"] <= outcome.passed["0.1"]


def test_at_the_loader_a_condemned_pair_is_read_until_the_delay_is_over() -> None:
    run = Run(Setting(visits=24, clean=56, planted=8, budget=1.0), 0)
    run.window()
    run._pending.append((run.filter.step + DELAY, "c0"))
    reads = []
    for _ in range(DELAY + 2):
        run._order = iter(["c0"] + [f"c{1 + i % 55}" for i in range(3 * ROWS)])
        reads.append("c0" in run._read())
        run.filter.step += 1
    assert reads == [True] * DELAY + [False] * 2


def test_a_pair_learns_by_its_own_visits_some_more_than_others() -> None:
    stream = Stream(replace(MANY, drift="learned", gap=2.0, visits=100, unlike=0.5), 0)
    ordinary = clean(stream)
    stream.trained.update(dict.fromkeys(ordinary, 50))
    gains = np.array([stream.learned(name) for name in ordinary])
    assert gains.mean() == pytest.approx(1.0, abs=0.05) and np.std(np.log(gains)) == pytest.approx(0.5, abs=0.04)
    assert np.mean(effects(stream, ordinary)) == pytest.approx(1.0, abs=0.1)
    assert not any(stream.learned(name) for name in stream.held_out)
    back = [stream.returns(name) for name in ordinary]
    assert back == [2 * gain >= 1.5 for gain in gains.tolist()] and 0.5 < np.mean(back) < 0.9


@pytest.mark.parametrize("sooner", [2, 3])
def test_after_a_third_of_the_run_pairs_come_round_so_many_times_as_often(sooner: int) -> None:
    run = Run(Setting(visits=30, clean=64, planted=0, sooner=sooner), 0)
    reads: list[list[str]] = []
    for number in range(run.stream.windows):
        run.stream.progress = number / run.stream.windows
        reads.append(run._read())
    third = len(reads) // 3
    early, late = ([name for names in part for name in names] for part in (reads[:third], reads[third + 2 :]))
    assert early.count(FILLER) / len(early) == pytest.approx(1 - 1 / sooner, abs=0.05) and FILLER not in late
    often, seldom = (len(part) - part.count(FILLER) for part in (late[: len(early)], early))
    assert often / seldom == pytest.approx(sooner, rel=0.1)


def test_pairs_that_come_back_are_counted_apart() -> None:
    setting = Setting(visits=12, clean=56, planted=0, drift="learned", gap=12.0, unlike=0.5)
    outcome, stream = simulate(setting, 0), Stream(setting, 0)
    assert outcome.returning[0] == sum(stream.returns(name) for name in clean(stream)) > 0
    assert simulate(replace(setting, drift="none"), 0).returning == (0, 0)
