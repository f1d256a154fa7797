"""Every signal of planted, ordinary and held-out pairs on a grid of draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.signals import scores
from benchmarks.signals.scores import DRAWS, fine_tune, score
from memsieve.filtering.signals import SIGNALS
from tests.benchmarks.planted_data import planted_data, planted_groups_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_data(tmp_path_factory.mktemp("signals") / "data", [(1, 5), (1, 2)], 4, held_out=4, size=32)


@pytest.fixture(scope="module")
def found(data: Path, model: Path) -> dict[str, Any]:
    """Of the base model itself, beside itself: nothing was learned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "ORDINARY", 2)
        patch.setattr(scores, "HELD_OUT", 2)
        patch.setattr(scores, "MODEL", model)
        return score(data, model)


def test_all_planted_pairs_are_scored_and_ordinary_ones_of_both_splits(found: dict[str, Any], data: Path) -> None:
    assert list(zip(found["repeats"], found["split"], strict=True)) == [
        (2, "train"), (5, "train"), (1, "train"), (1, "train"), (1, "held_out"), (1, "held_out"),
    ]  # fmt: skip
    pairs = scores._pairs(data)
    groups = [row.group for row, _ in pairs]
    assert len(set(groups)) == len(groups) and set(groups[:2]) == planted_groups_of(data)
    caption = {row["group"]: row["caption"] for row in pq.read_table(data / "truth.parquet").to_pylist()}
    assert all(row.caption == caption[row.group] for row, _ in pairs)


def test_each_pair_meets_every_part_of_the_schedule_once(found: dict[str, Any]) -> None:
    t = np.array(found["t"])
    assert t.shape == (6, DRAWS)
    for row in t:
        parts = enumerate(sorted(row))
        assert all(k * 1000 // DRAWS <= value <= (k + 1) * 1000 // DRAWS for k, value in parts)
    assert len({tuple(row) for row in t.tolist()}) == 6, "in an order of its own"


def test_a_model_that_learned_nothing_is_its_own_reference(found: dict[str, Any]) -> None:
    for name in SIGNALS:
        assert np.array(found[name]).shape == (6, DRAWS) and np.isfinite(found[name]).all()
    assert np.allclose(found["reference_ratio"], 0.0, atol=1e-4)
    assert np.allclose(found["magnitude_ratio"], 0.0, atol=1e-4)
    assert np.std(found["magnitude"]) > 0.0 and np.std(found["loss"]) > 0.0


def test_a_fine_tune_that_is_there_is_not_run_again(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "pipeline").mkdir(parents=True)
    assert fine_tune(data, tmp_path / "run") == tmp_path / "run" / "pipeline"
    assert not list((tmp_path / "run" / "pipeline").iterdir())
