"""What a group's visits come to, when it is compared, and what clean pairs reach over a whole life."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memsieve.filtering.evidence.table import EvidenceTable, Life, spread_of_clean_pairs, whole_life_maxima

NOT_MEASURED = np.full(1, np.nan)


def visited(table: EvidenceTable, scores: list[float], group: str = "a", sweeps: list[int] | None = None) -> None:
    """One visit a window of ``group``; the magnitudes are not measured."""
    for step, score in enumerate(scores):
        sweep = sweeps[step] if sweeps is not None else step
        table.observe([group], np.array([score]), NOT_MEASURED, step, sweep)


def test_evidence_is_the_discounted_mean_in_units_of_what_clean_pairs_spread() -> None:
    table = EvidenceTable(half_life=2.0)
    visited(table, [4.0, 1.0, 2.0])
    w1, w2 = 0.5 + 0.5**0.5 + 1.0, 0.25 + 0.5 + 1.0
    now = table.means_now(within=0.9, between=0.1)
    assert now.means.tolist() == pytest.approx([(4.0 * 0.5 + 0.5**0.5 + 2.0) / w1])
    assert now.spreads.tolist() == pytest.approx([(0.1 + 0.9 * w2 / w1**2) ** 0.5])
    assert now.evidence.tolist() == pytest.approx([now.means[0] / now.spreads[0]])


def test_evidence_of_many_visits_is_not_evidence_of_guilt() -> None:
    """An easy pair's discounted mean settles at its own effect, however often it is read."""
    table = EvidenceTable(half_life=1e9)
    table.observe(["easy"] * 500, np.full(500, 0.5), np.zeros(500), 0, 0)
    table.look(table.means_now(within=1.0, between=0.25).evidence)
    assert table["evidence"][0] == pytest.approx(1.0, rel=0.01)


def test_a_pair_that_comes_round_rarely_accumulates_evidence_too() -> None:
    """One visit in 50 sweeps, in one, or all in one: the same evidence; the condemned forget by time."""
    tables = {gap: EvidenceTable(half_life=8.0) for gap in (1, 50)}
    for gap, table in tables.items():
        for visit in range(12):
            table.observe(["a"], np.array([1.0]), np.array([np.nan]), visit, visit * gap)
    assert tables[1]["w1"][0] == tables[50]["w1"][0] > 7.0
    often = EvidenceTable(half_life=8.0)
    often.observe(["a"] * 12, np.ones(12), np.full(12, np.nan), 0, 3)
    assert often["w1"][0] == pytest.approx(tables[1]["w1"][0])
    tables[50].condemn(0, 12)
    tables[50].observe(["a"], np.array([0.0]), np.array([np.nan]), 13, 13 * 50)
    assert tables[50]["w1"][0] == pytest.approx(1.0, abs=0.2)


def test_the_condemned_forget_a_half_life_in_as_many_sweeps_and_at_least_one_visits_worth() -> None:
    table = EvidenceTable(half_life=8.0)
    visited(table, [3.0], sweeps=[2])
    table.condemn(0, 1)
    visited(table, [0.0], sweeps=[10])
    assert table["sum"][0] == pytest.approx(1.5) and table["w1"][0] == pytest.approx(1.5)
    visited(table, [0.0], sweeps=[10])  # once more in the same sweep
    assert table["sum"][0] == pytest.approx(1.5 * 0.5 ** (1 / 8))


def test_a_visit_without_a_score_is_an_exposure_and_changes_no_evidence() -> None:
    table = EvidenceTable(half_life=8.0)
    table.observe(["a"], np.array([2.0]), np.array([5.0]), 1, 1, np.array([0.5]))
    before = {name: table[name].copy() for name in table.columns}
    for step, score in ((7, np.nan), (8, np.inf)):
        table.observe(["a"], np.array([score]), np.array([5.0]), step, 9, np.array([0.5]))
    changed = {name for name in table.columns if table[name].tolist() != before[name].tolist()}
    assert changed == {"exposures", "last_step"}
    assert table["exposures"].tolist() == [3] and table["last_step"].tolist() == [8]


def test_a_magnitude_or_a_level_that_was_not_measured_adds_nothing() -> None:
    table = EvidenceTable(half_life=1e9)
    table.observe(["a"] * 2, np.ones(2), np.array([3.0, np.nan]), 0, 0, np.array([1.0, np.nan]))
    assert table["scored"].tolist() == [2] and table["magnitude_sum"].tolist() == [3.0]
    assert table.level().tolist() == pytest.approx([0.5])


def test_the_level_is_the_discounted_mean_of_measured_visits_and_0_before_the_first() -> None:
    table = EvidenceTable(half_life=1.0)
    table.observe(["a", "a", "b"], np.array([1.0, 1.0, np.nan]), np.zeros(3), 0, 0, np.array([-3.0, 0.0, -9.0]))
    assert table.level().tolist() == pytest.approx([-1.0, 0.0])
    assert table.level(np.array([1, 0])).tolist() == pytest.approx([0.0, -1.0])


def test_a_group_that_was_never_measured_has_no_mean() -> None:
    table = EvidenceTable(half_life=8.0)
    table.observe(["a", "b"], np.array([np.nan, 1.0]), np.zeros(2), 0, 0)
    now = table.means_now(1.0, 0.5)
    assert np.isnan(now.means[0]) and np.isfinite(now.means[1])
    assert table.means_now(1.0, 0.5, np.array([1])).means.tolist() == [now.means[1]]


def test_a_new_group_is_neither_compared_nor_condemned() -> None:
    table = EvidenceTable(half_life=8.0)
    names = [f"g{i}" for i in range(3000)]  # more than the columns begin with
    rows = table.rows(names, 5)
    assert rows.tolist() == list(range(3000)) and len(table) == 3000
    assert table.rows(["g7", "g2999", "new"], 6).tolist() == [7, 2999, 3000]
    for column, value in {"condemned_step": -1, "p_value": 1.0, "evidence_max": -np.inf, "evidence": 0.0}.items():
        assert set(table[column].tolist()) == {value}
    assert set(table["first_step"][:3000].tolist()) == {5} and table["first_step"][3000] == 6
    assert table.row("g2999") == 2999 and table.row("unknown") == -1


def test_a_look_keeps_the_largest_evidence_and_skips_who_is_not_compared() -> None:
    table = EvidenceTable(half_life=8.0)
    table.rows(["a", "b", "c"], 0)
    table.look(np.array([2.0, -1.0, np.nan]))
    assert table["evidence"].tolist() == [2.0, -1.0, 0.0]
    assert table["evidence_max"].tolist() == [2.0, -1.0, -np.inf]
    table.look(np.array([1.0, 3.0]), np.array([0, 2]))
    assert table["evidence"].tolist() == [1.0, -1.0, 3.0], "b was not looked at"
    assert table["evidence_max"].tolist() == [2.0, -1.0, 3.0]
    table.look(np.array([np.nan, 4.0, 4.0]))
    assert table["evidence"].tolist() == [0.0, 4.0, 4.0] and table["evidence_max"].tolist() == [2.0, 4.0, 4.0]


def test_a_look_at_a_spared_group_shows_its_evidence_and_is_not_kept() -> None:
    table = EvidenceTable(half_life=8.0)
    table.rows(["a", "b"], 0)
    table.look(np.array([5.0, 5.0]), spared=np.array([True, False]))
    assert table["evidence"].tolist() == [5.0, 5.0] and table["evidence_max"].tolist() == [-np.inf, 5.0]


def test_visits_a_sweep_are_the_measured_ones() -> None:
    table = EvidenceTable(half_life=8.0)
    table.observe(["a"] * 6 + ["b"] * 3, np.array([1.0] * 6 + [1.0, np.nan, np.nan]), np.zeros(9), 0, 0)
    assert table.visits_a_sweep(4).tolist() == [1.5, 0.25]
    assert table.visits_a_sweep(0, np.array([0])).tolist() == [6.0], "before the first sweep ends"


def test_a_drawn_visit_is_counted_at_its_exposure() -> None:
    table = EvidenceTable(half_life=8.0)
    visited(table, [np.nan, 1.0])
    table.note_drawn("a")
    visited(table, [np.nan])
    assert table["drawn"].tolist() == [1] and table["last_drawn"].tolist() == [2]


def filled() -> EvidenceTable:
    rng = np.random.default_rng(0)
    table = EvidenceTable(half_life=5.0, first=3)
    for step in range(4):
        table.observe([f"g{i}" for i in range(30)], rng.normal(size=30), rng.normal(size=30), step, step)
    table.look(table.means_now(1.0, 0.2).evidence)
    table.condemn(4, 3)
    return table


def test_a_table_restores_exactly_and_its_state_is_its_own() -> None:
    table = filled()
    state = table.state_dict()
    evidence = table["evidence_max"].tolist()
    again = EvidenceTable(half_life=1.0, first=3)
    again.load_state_dict(state)
    visited(table, [9.0, 9.0], "g1")
    table.look(np.full(30, 99.0))
    assert again["evidence_max"].tolist() == evidence, "what is added later is not in it"
    again["evidence_max"][:] = 0.0
    fresh = EvidenceTable(half_life=1.0, first=3)
    fresh.load_state_dict(state)
    assert fresh["evidence_max"].tolist() == evidence, "nor what another reader of it does"
    assert fresh.half_life == 5.0 and list(fresh.names) == [f"g{i}" for i in range(30)]
    whole = filled()
    for held in (whole, fresh):  # both go on alike, new groups too
        held.observe(["g1", "new"], np.array([1.0, 2.0]), np.zeros(2), 9, 9)
    for name in whole.columns:
        assert fresh[name].tolist() == whole[name].tolist() and fresh[name].dtype == whole[name].dtype


def test_a_history_that_lacks_a_column_is_refused_by_name() -> None:
    state: dict[str, Any] = filled().state_dict()
    del state["columns"]["w2"], state["columns"]["level_sum"]
    with pytest.raises(ValueError, match=r"history has no level_sum, w2: .* earlier version; start a new run"):
        EvidenceTable(half_life=8.0).load_state_dict(state)


def test_spread_of_clean_pairs_finds_both_variances() -> None:
    rng = np.random.default_rng(0)
    within, between = spread_of_clean_pairs(rng.normal(size=(2000, 1)) * 0.5 + rng.normal(size=(2000, 6)))
    assert within == pytest.approx(1.0, rel=0.05) and between == pytest.approx(0.25, rel=0.15)


def test_the_spread_by_hand_counts_pairs_that_were_scored_twice() -> None:
    """Within: (1 + 1 + 1 + 1) / 2. Between: the means' variance, 4, one standard error up, less within / 2."""
    twice = np.array([[1.0, 3.0], [5.0, 7.0]])
    assert spread_of_clean_pairs(twice) == pytest.approx((2.0, 4.0 * (1.0 + 1.0) - 2.0 / 2.0))
    once_more = np.array([[1.0, np.nan, 3.0], [5.0, 7.0, np.nan], [4.0, np.nan, np.nan]])
    assert spread_of_clean_pairs(once_more) == pytest.approx(spread_of_clean_pairs(twice))


def test_the_spread_of_a_few_scores_is_all_between_pairs() -> None:
    assert spread_of_clean_pairs(np.array([[1.0], [5.0]])) == (0.0, 4.0)
    assert spread_of_clean_pairs(np.array([[1.0, 5.0], [3.0, np.nan]])) == pytest.approx((0.0, 8.0 / 3.0))
    assert spread_of_clean_pairs(np.array([[1.0]])) == (0.0, 1.0)
    assert spread_of_clean_pairs(np.full((3, 2), np.nan)) == (0.0, 1.0)


def test_pairs_are_never_taken_to_be_all_alike() -> None:
    """Two pairs with one mean: a twentieth of the whole variance is between them all the same."""
    within, between = spread_of_clean_pairs(np.array([[-1.0, 1.0], [-1.0, 1.0]]))
    assert within == pytest.approx(2.0) and between == pytest.approx(0.05)
    assert spread_of_clean_pairs(np.zeros((2, 2))) == (0.0, 1e-6)


def scores_of(pairs: int = 40, sweeps: int = 6) -> np.ndarray:
    rng = np.random.default_rng(1)
    return 0.5 * rng.normal(size=(pairs, 1)) + rng.normal(size=(pairs, sweeps))


def maxima(life: Life, paths: int = 8, seed: int = 3) -> np.ndarray:
    return whole_life_maxima(scores_of(), 1.0, 0.25, life, paths=paths, seed=seed)


def test_a_life_without_residuals_stays_at_its_pairs_level() -> None:
    """Pairs that were scored once: levels are as far apart as the variance between says, and nothing is drawn."""
    life = Life(half_life=8.0, visits=2, horizon=5, first=3)
    found = whole_life_maxima(np.array([[7.0], [3.0]]), 0.0, 16.0, life, paths=3, seed=0)
    assert found.tolist() == pytest.approx([(5.0 + 4.0) / 4.0] * 3 + [(5.0 - 4.0) / 4.0] * 3)


def test_a_longer_life_comes_to_no_less_and_more_visits_to_more() -> None:
    short, long = maxima(Life(8.0, 1, 4, 3)), maxima(Life(8.0, 1, 64, 3))
    assert len(short) == len(long) == 40 * 8
    assert (long >= short).all() and (long > short).mean() > 0.5, "a longer life begins as the shorter one"
    assert np.median(maxima(Life(8.0, 16, 4, 3))) > np.median(short) + 0.3, "64 visits in place of 4"


def test_visits_before_the_first_that_counts_are_not_compared() -> None:
    early, late = maxima(Life(8.0, 1, 16, 1)), maxima(Life(8.0, 1, 16, 9))
    assert (early >= late).all() and (early > late).any()
    assert np.isfinite(maxima(Life(8.0, 1, 2, 3))).all(), "a life that is shorter is compared at its end"


def test_lives_are_drawn_from_their_seed_and_apart_for_each_pace() -> None:
    life = Life(8.0, 1, 16, 3)
    assert maxima(life).tolist() == maxima(life).tolist()
    assert maxima(life).tolist() != maxima(life, seed=4).tolist()
    assert maxima(life).tolist() != maxima(Life(8.0, 2, 8, 3)).tolist(), "as many visits, in half the sweeps"
