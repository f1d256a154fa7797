"""Calibration: ranks, t-bins, exact restore."""

from __future__ import annotations

import numpy as np
import pytest

from filtering.calibration import Calibrator, conformal_p_value


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
