"""Calibration: ranks, t-bins, exact restore."""

from __future__ import annotations

import numpy as np
import pytest

from memsieve.filtering.conformal import conformal_p_value
from memsieve.filtering.evidence.calibration import Calibrator


def filled(count: int = 400, seed: int = 0) -> Calibrator:
    rng = np.random.default_rng(seed)
    calibrator = Calibrator(["loss"], 10, 1000, 512)
    t = rng.integers(0, 1000, count)
    calibrator.add((rng.normal(size=count) * (1 + t / 500) + t / 100)[:, None], t)
    return calibrator


def test_p_value_is_the_rank_among_held_out() -> None:
    reference = np.array([1.0, 2.0, 3.0, 4.0])
    assert conformal_p_value(np.array([0.0, 2.5, 4.0, 9.0, np.nan]), reference)[:4].tolist() == [1.0, 0.6, 0.4, 0.2]
    assert np.isnan(conformal_p_value(np.array([np.nan]), reference)[0])


def test_p_values_of_clean_samples_are_uniform() -> None:
    calibrator, rng = filled(), np.random.default_rng(1)
    t = rng.integers(0, 1000, 4000)
    clean = (rng.normal(size=4000) * (1 + t / 500) + t / 100)[:, None]
    p = calibrator.p_values(calibrator.scores(clean, t))
    for level in (0.05, 0.1, 0.5):
        assert abs(float(np.mean(p <= level)) - level) < 0.35 * level + 0.01


def test_the_same_value_means_different_things_at_different_t() -> None:
    z = filled().z_scores(np.array([[9.5], [9.5]]), np.array([10, 950]))
    assert z[0, 0] > 5 and abs(z[1, 0]) < 1.5


def test_nan_is_no_evidence() -> None:
    calibrator = filled()
    before = len(calibrator)
    calibrator.add(np.array([[np.nan]]), np.array([5]))
    assert len(calibrator) == before
    assert np.isnan(calibrator.scores(np.array([[np.nan]]), np.array([5]))[0])


def test_the_bank_follows_the_model() -> None:
    calibrator = Calibrator(["loss"], 1, 1000, 64)
    calibrator.add(np.zeros((64, 1)) + np.linspace(-1, 1, 64)[:, None], np.zeros(64, dtype=np.int64))
    calibrator.add(10 + np.linspace(-1, 1, 64)[:, None], np.zeros(64, dtype=np.int64))
    assert abs(calibrator.z_scores(np.array([[10.0]]), np.array([0]))[0, 0]) < 0.1


def test_restore_is_exact_and_refuses_another_set_up() -> None:
    calibrator = filled()
    other = Calibrator(["loss"], 10, 1000, 512)
    other.load_state_dict(calibrator.state_dict())
    x, t = np.array([[1.0], [5.0]]), np.array([100, 800])
    assert np.array_equal(calibrator.scores(x, t), other.scores(x, t))
    with pytest.raises(ValueError, match="resume with the saved config"):
        Calibrator(["loss"], 10, 1000, 64).load_state_dict(calibrator.state_dict())


def residual(bank_size: int = 4096) -> Calibrator:
    return Calibrator(["reference_residual"], 4, 1000, bank_size)


def measured(rng: np.random.Generator, base: np.ndarray, slope: np.ndarray, gain: float = 0.0) -> np.ndarray:
    """[-log L, log L_ref - log L] of pairs whose log L is ``slope`` x log L_ref - ``gain``, and noise."""
    loss = slope * base - gain + 0.05 * rng.normal(size=len(base))
    return np.stack([-loss, base - loss], axis=1)


def test_the_residual_does_not_depend_on_how_hard_the_base_finds_a_pair() -> None:
    """The slope of log L on log L_ref is found in each bin; pairs that the base knows by heart are ordinary, which
    neither the loss nor the ratio would say, and a pair that is denoised better than others like it is not."""
    rng = np.random.default_rng(0)
    t = rng.integers(0, 1000, 4000)
    slope = np.array([0.5, 0.7, 0.9, 1.0])
    calibrator = residual()
    calibrator.add(measured(rng, rng.normal(size=4000), slope[t // 250]), t)
    assert np.allclose(calibrator._slope, slope, atol=0.02)
    at = np.repeat(np.arange(0, 1000, 5), 2)
    for base in (-3.0, 0.0, 3.0):
        ordinary = calibrator.scores(measured(rng, np.full(len(at), base), slope[at // 250]), at)
        assert abs(float(np.median(ordinary))) < 0.35 and float(np.std(ordinary)) == pytest.approx(1.0, abs=0.25)
    known = calibrator.scores(measured(rng, np.full(len(at), 1.0), slope[at // 250], gain=0.2), at)
    assert float(np.median(known)) > 3.0


def test_the_residual_is_the_ratio_where_no_slope_can_be_found() -> None:
    calibrator, t = residual(64), np.zeros(64, dtype=np.int64)
    rng = np.random.default_rng(1)
    calibrator.add(measured(rng, np.full(64, 0.3), np.full(64, 1.0)), t)
    assert (calibrator._slope == 1.0).all()
    ratio = Calibrator(["reference_ratio"], 4, 1000, 64)
    visits = measured(rng, np.linspace(-1, 1, 20), np.full(20, 1.0))
    ratio.add(calibrator._values[:, 1:], t)
    assert np.allclose(calibrator.scores(visits, t[:20]), ratio.scores(visits[:, 1:], t[:20]))


def test_the_residual_restores_exactly_and_says_nothing_of_what_was_not_measured() -> None:
    rng = np.random.default_rng(2)
    calibrator, other, t = residual(512), residual(512), rng.integers(0, 1000, 700)
    calibrator.add(measured(rng, rng.normal(size=700), np.full(700, 0.8)), t)
    other.load_state_dict(calibrator.state_dict())
    visits = measured(rng, rng.normal(size=700), np.full(700, 0.8), gain=0.1)
    visits[3] = np.nan
    assert np.array_equal(calibrator.scores(visits, t), other.scores(visits, t), equal_nan=True)
    assert np.isnan(calibrator.scores(visits, t)[3]) and np.isfinite(np.delete(calibrator.scores(visits, t), 3)).all()


def test_before_the_first_step_rounding_is_no_evidence() -> None:
    """Under LoRA held-out pairs have the reference's loss to the last bit until the first update."""
    rng = np.random.default_rng(3)
    calibrator, t = residual(512), rng.integers(0, 1000, 200)
    base = rng.normal(size=200)
    calibrator.add(np.stack([-base, np.zeros(200)], axis=1), t)
    rounded = np.stack([-base, 1e-7 * rng.normal(size=200)], axis=1)
    assert np.abs(calibrator.scores(rounded, t)).max() < 0.5


def test_a_few_measurements_give_no_slope() -> None:
    """Regressed among a handful, visits would scatter more than they do."""
    rng = np.random.default_rng(4)
    few, t = residual(512), np.full(8, 100)
    few.add(measured(rng, rng.normal(size=8), np.full(8, 0.2)), t)
    assert (few._slope == 1.0).all()
    few.add(measured(rng, rng.normal(size=40), np.full(40, 0.2)), np.full(40, 100))
    assert few._slope[0] == pytest.approx(0.2, abs=0.05)


def test_the_level_of_the_loss_is_that_beside_the_reference() -> None:
    rng = np.random.default_rng(5)
    calibrator, t = residual(), rng.integers(0, 1000, 4000)
    calibrator.add(measured(rng, rng.normal(2.0, 0.5, 4000), np.ones(4000)), t)
    hard = calibrator.levels(measured(rng, np.full(100, 3.0), np.ones(100)), t[:100])
    assert float(np.median(hard)) == pytest.approx(-2.0, abs=0.3), "a loss two standard deviations above the median"
    assert np.isnan(Calibrator(["cosine"], 4, 1000, 64).levels(np.zeros((3, 1)), t[:3])).all()
