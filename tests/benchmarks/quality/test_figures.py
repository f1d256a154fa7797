"""From cells to figures: a pair is one observation, however often it was drawn or read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from benchmarks.quality.figures import Results
from tests.benchmarks.quality.cells import fixture_cell


def test_figures_pool_seeds() -> None:
    cells = {("ours", "planted", s): fixture_cell("ours", s, found=s == 0) for s in (0, 1)}
    results = Results({**cells, ("oracle", "planted", 0): fixture_cell("oracle", 0, found=True)})
    tpr, auc, dropped = results.detection("ours", "level 100")
    assert tpr is not None and (tpr.value, tpr.pairs) == (0.5, 8)
    # the clean pair that was dropped ranks above the planted ones that were not
    assert auc is not None and auc.value == pytest.approx((1.0 + 0.4975) / 2)
    assert dropped is not None and dropped.value == 0.5
    copies = results.generated("ours", "level 100", "copies")
    assert copies is not None and copies.value == 0.25
    assert results.first_dropped("ours", "level 100") == (math.inf, 4, 8)
    drops = results.false_drops("ours")
    assert drops is not None and drops.value == 2 / 400
    held = results.held_out("ours")  # against the one seed that the oracle has
    assert held is not None and held.value == pytest.approx(1.1)


def test_generations_of_one_pair_are_one_observation() -> None:
    """Two of four pairs come back in all of their draws: 64 of them say no more than one of each."""

    def rate(draws: int) -> tuple[float, float, int]:
        cell = fixture_cell("none", 0, found=False)
        cell["generations"] = {f"p{i}": {"case": "level 100", "copies": [i % 2] * draws} for i in range(4)}
        figure = Results({("none", "planted", 0): cell}).generated("none", "level 100", "copies")
        assert figure is not None and figure.value == 0.5
        return figure.low, figure.high, figure.pairs

    assert rate(1) == rate(64) and rate(1)[2] == 4
    expected = binomtest(2, 4).proportion_ci(method="wilson")
    assert rate(64)[:2] == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_held_out_loss_is_the_ratio_of_the_means_over_seeds_that_both_have() -> None:
    """Not the mean of ratios, nor over a seed that one of the two lacks; the interval is over held-out pairs."""
    losses = {("ours", 0): [2.0, 9.0], ("ours", 1): [4.0, 3.0], ("ours", 2): [99.0, 99.0],
              ("oracle", 0): [2.0, 3.0], ("oracle", 1): [2.0, 3.0]}  # fmt: skip
    results = Results({(m, "planted", s): fixture_cell(m, s, True, held_out=v) for (m, s), v in losses.items()})
    held = results.held_out("ours")
    assert held is not None and held.value == pytest.approx((3.0 + 6.0) / (2.0 + 3.0)) and held.pairs == 2
    assert (held.low, held.high) == pytest.approx((3.0 / 2.0, 6.0 / 3.0)), "one pair or the other"
    assert results.held_out_by_seed("ours") == pytest.approx([11.0 / 5.0, 7.0 / 5.0])
    assert results.held_out("cap") is None


def test_what_was_dropped_ranks_first_by_evidence_alone() -> None:
    """A method that condemns stops measuring; a rule on visits has a margin for every pair, dropped or not."""

    def tpr(method: str) -> float:
        cell = fixture_cell(method, 0, found=True)
        for pair in cell["pairs"]:
            pair["score"] = -1.0
        figure = Results({(method, "planted", 0): cell}).detection(method, "level 100")[0]
        assert figure is not None
        return figure.value

    assert tpr("ours") == 1.0 and tpr("paper") == 0.0


def test_a_model_that_was_not_trained_has_dropped_nothing_and_spared_nothing() -> None:
    cell: dict[str, Any] = fixture_cell("base", 0, found=False)
    cell["singles"] = {"clean": {"count": 200}}
    assert Results({("base", "planted", 0): cell}).false_drops("base") is None
    assert Results({("ours", "planted", 0): fixture_cell("ours", 0, True)}).false_drops("ours", kind="rare") is None


def test_cells_of_other_settings_are_counted_and_not_read(tmp_path: Path) -> None:
    for seed, made in ((0, "now"), (1, "before"), (2, "now")):
        cell = fixture_cell("ours", seed, True, hash=made)
        (tmp_path / f"{seed}.json").write_text(json.dumps(cell))
    results, stale = Results.read(tmp_path, lambda cell: cell["hash"] == "now")
    assert [cell["seed"] for cell in results.of("ours")] == [0, 2] and stale == 1
    assert results.methods == ["ours"]
