"""Which t say something, by kind of model: bases that training takes, and a limit that is the best of those
measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.signals import scores
from benchmarks.signals.by_family import LIMITS, SIGNALS, best_limit, table_of
from benchmarks.signals.families import FAMILIES, trained_base, untrained
from benchmarks.signals.scores import DRAWS, fine_tune, score
from memsieve.filtering import signals
from tests.benchmarks.planted_data import planted_data


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kind_is_what_it_is_called_and_goes_through_training_and_scores(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "ORDINARY", 2)
    monkeypatch.setattr(scores, "HELD_OUT", 2)
    monkeypatch.setattr(scores, "DRAWS", 2)
    data = planted_data(tmp_path / "data", [(1, 12)], 20, held_out=4, size=32)
    base = trained_base(family, data, tmp_path, steps=1)
    index = json.loads((base / "scheduler" / "scheduler_config.json").read_text())
    assert index.get("prediction_type", "flow") == family
    assert trained_base(family, data, tmp_path, steps=1) == base
    pipeline = fine_tune(data, tmp_path / "run", base=base)
    found = score(data, pipeline, base)
    assert all(np.isfinite(found[name]).all() for name in signals.SIGNALS)
    assert np.std(found["drift"]) > 0.0, "one step has moved it"


def test_untrained_networks_are_the_same_each_time() -> None:
    one, two = (untrained("flow").transformer.state_dict() for _ in range(2))
    assert all(bool((one[name] == two[name]).all()) for name in one)


def a_run(told_below: float) -> dict[str, Any]:
    """Planted pairs that stand out at t below a share of the schedule alone."""
    rng = np.random.default_rng(0)
    repeats, split = [50] * 40 + [1] * 240, ["train"] * 160 + ["held_out"] * 120
    t = np.array([rng.permutation(DRAWS) * 1000 // DRAWS + rng.integers(0, 80, DRAWS) for _ in repeats])
    run: dict[str, Any] = {"repeats": repeats, "split": split, "t": t.tolist()}
    for name in signals.SIGNALS:
        run[name] = np.exp(rng.normal(size=t.shape) * 0.3).tolist()
    ratio = rng.normal(size=t.shape) * 0.1
    ratio[:40] += np.where(t[:40] < told_below * 1000, 0.08, 0.0)
    run["reference_ratio"], run["loss"] = ratio.tolist(), np.exp(-ratio).tolist()
    return run


@pytest.mark.parametrize("told_below", [0.4, 0.8])
def test_the_best_limit_is_where_visits_stop_saying_something(told_below: float) -> None:
    found = table_of([a_run(told_below)])
    assert found["pairs"] == {"50": 40} and found["clean"] == 120 + 120 - 95
    residual = found["reference_residual"]
    parts = residual["by_part"]["50"]
    told = round(10 * told_below)
    assert np.mean(parts[:told]) > 0.65 and np.mean(parts[told + 1 :]) < 0.6
    assert told_below - 0.15 <= residual["best"] <= told_below + 0.15
    assert set(SIGNALS) < set(found)


def test_of_limits_that_are_alike_the_largest_is_taken() -> None:
    rising = [min(0.9, 0.5 + 0.1 * i) for i in range(len(LIMITS))]
    assert best_limit({"50": rising}) == LIMITS[-1] == 1.0
    assert best_limit({"25": rising[::-1], "50": rising[::-1]}) == LIMITS[len(LIMITS) - 5]
