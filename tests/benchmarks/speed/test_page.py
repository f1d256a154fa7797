"""The page of speed: ratios within a round, and an aim that one clock misses is missed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.speed.page import _limits, _measured, _rounds, ratio
from benchmarks.speed.timed_run import DEMONSTRATION, DEMONSTRATION_LIMITS, LIMITS, PASS_LIMITS, VARIANTS

Blocks = dict[str, list[dict[str, float]]]


def block(seconds: float, cpu: float | None = None, updates: int = 10, read: int = 160) -> dict[str, float]:
    return {"seconds": seconds, "cpu_seconds": seconds if cpu is None else cpu, "updates": updates, "read": read}


def test_a_ratio_is_taken_within_each_round_and_its_median_is_told() -> None:
    """A machine that is slow for a round is slow for both: medians of seconds would say 2, or 3."""
    blocks: Blocks = {"a": [block(1.2), block(6.0), block(3.6)], "no filter": [block(1.0), block(2.0), block(3.0)]}
    middle, low, high = ratio(blocks, "a", "updates")
    assert middle == pytest.approx(1.2) and low == pytest.approx(1.2) and high == pytest.approx(3.0)


def test_per_sample_what_was_skipped_makes_a_run_faster() -> None:
    blocks: Blocks = {"a": [block(1.0, read=200)] * 3, "no filter": [block(1.0, read=160)] * 3}
    assert ratio(blocks, "a", "updates") == pytest.approx((1.0, 1.0, 1.0))
    assert ratio(blocks, "a", "read") == pytest.approx((0.8, 0.8, 0.8))


def test_the_interval_is_over_rounds() -> None:
    """Of ten rounds the 95 % interval of the median: not a round more than the middle six or so."""
    rng = np.random.default_rng(1)
    each = 1.0 + 0.1 * rng.normal(size=10)
    blocks: Blocks = {"a": [block(value) for value in each], "no filter": [block(1.0)] * 10}
    middle, low, high = ratio(blocks, "a", "updates")
    ordered = np.sort(each)
    assert middle == pytest.approx(np.median(each)) and ordered[0] < low < middle < high < ordered[-1]


def limits(name: str, wall: float, cpu: float, shares: tuple[int, ...] = (0, 10)) -> dict[tuple[str, str], str]:
    """(run, what it is measured as) -> whether the aim is met; all other runs cost nothing."""
    blocks = {other: [block(1.0)] * 3 for other in VARIANTS} | {name: [block(wall, cpu)] * 3}
    rows = [line.strip("| ").split(" | ") for line in _limits({share: {"blocks": blocks} for share in shares})]
    return {(row[0], row[1]): row[-1] for row in rows if row[0] in VARIANTS}


@pytest.mark.parametrize(("more_wall", "more_cpu", "met"), [
    (0.0, 0.0, "yes"), (0.1, -0.1, "no, by 0.100"), (-0.1, 0.2, "no, by 0.200"), (-0.1, -0.1, "yes"),
])  # fmt: skip
@pytest.mark.parametrize("name", LIMITS)
def test_an_aim_is_met_where_both_clocks_are_within_it(name: str, more_wall: float, more_cpu: float, met: str) -> None:
    found = limits(name, LIMITS[name] + more_wall, LIMITS[name] + more_cpu)
    assert found[name, "per update, nothing planted"] == met


@pytest.mark.parametrize("name", DEMONSTRATION_LIMITS)
def test_the_demonstration_has_an_aim_of_its_own(name: str) -> None:
    row = name, f"per update, the demonstration's data, {DEMONSTRATION} % planted"
    aim = DEMONSTRATION_LIMITS[name]
    assert limits(name, aim, aim, (0, DEMONSTRATION))[row] == "yes"
    assert limits(name, aim, aim + 0.02, (0, DEMONSTRATION))[row] == "no, by 0.020"
    assert row not in limits(name, 1.0, 1.0)


def test_runs_that_were_not_timed_everywhere_are_left_out() -> None:
    some = {name: [block(1.0)] for name in ("no filter", "paper's rule", "batch: drift")}
    fewer = {name: [block(1.0)] for name in ("no filter", "paper's rule")}
    assert _measured({0: {"blocks": some}, 10: {"blocks": fewer}}) == ["no filter", "paper's rule"]


@pytest.mark.parametrize("name", PASS_LIMITS)
def test_a_pass_over_planted_data_has_an_aim_of_its_own(name: str) -> None:
    row = name, "per pass, 10 % planted"
    assert limits(name, PASS_LIMITS[name], PASS_LIMITS[name])[row] == "yes"
    assert limits(name, PASS_LIMITS[name] + 0.01, PASS_LIMITS[name])[row] == "no, by 0.010"
    assert row not in limits(name, 1.0, 1.0, shares=(0,)), "what was not measured is neither met nor missed"


def test_rounds_are_said_of_all_shares() -> None:
    def part(rounds: int) -> dict[str, Any]:
        return {"blocks": {"no filter": [block(1.0)] * rounds}}

    assert _rounds({0: part(6), 10: part(6)}) == "6" and _rounds({0: part(6), 10: part(4)}) == "4 or 6"
