"""The page of false drops: an interval above the set rate is said to be, and so is what few seeds can say."""

from __future__ import annotations

from typing import Any

from benchmarks.false_drops.page import _earlier, _oftener, _real, _real_verdict, _row, _verdict


def stream(condemned: list[float], *, seeds: int = 8, rate: float = 0.05, budget: float | None = None,
           at_one: list[float] | None = None) -> dict[str, Any]:  # fmt: skip
    """A row of the JSON: mean, low and high."""
    return {"setting": {"rate": rate, "budget": budget}, "seeds": seeds, "condemned": condemned,
            "passed": {"0.01": at_one or [0.0, 0.0, 0.0], "0.05": condemned, "0.1": [0.0, 0.0, 0.0]},
            "planted": 16, "planted_condemned": 3, "planted_median_exposures": None, "measured": 90.0,
            "sweeps": 12}  # fmt: skip


def real(*dropped: int, groups: int = 500) -> list[dict[str, Any]]:
    return [{"passed": {"0.01": hits, "0.05": hits}, "groups": groups, "steps": 9, "visits_mean": 3.0, "shift": 0.1,
             "measured_mean": 2.0, "sweeps": 4} for hits in dropped]  # fmt: skip


def said(**rows: dict[str, Any]) -> str:
    return " ".join(_verdict(rows)).strip()


def test_an_interval_that_holds_the_rate_is_not_above_it() -> None:
    assert said(a=stream([0.06, 0.05, 0.09])).startswith("In none of the 1 settings with three seeds or more")


def test_an_interval_above_the_rate_is_named_with_its_setting() -> None:
    told = said(good=stream([0.02, 0.01, 0.03]), bad=stream([0.06, 0.051, 0.09]))
    assert told == "**The interval lies above the set rate** in: bad at 5 %."


def test_in_the_batch_the_other_rates_count_too_and_at_the_loader_they_do_not() -> None:
    high = [0.03, 0.02, 0.04]
    assert "batch at 1 %" in said(batch=stream([0.0, 0.0, 0.0], at_one=high))
    assert "In none" in said(sieve=stream([0.0, 0.0, 0.0], at_one=high, budget=1.0))


def test_at_the_set_rate_what_was_condemned_counts() -> None:
    """Set at 1 %, a stream is judged by whom it condemned."""
    assert "a at 1 %" in said(a=stream([0.03, 0.02, 0.04], rate=0.01))


def test_settings_of_fewer_than_three_seeds_are_no_evidence() -> None:
    told = said(bad=stream([0.5, 0.4, 0.6], seeds=2), good=stream([0.0, 0.0, 0.0]))
    assert "In none of the 1 settings" in told and told.endswith(
        "1 settings have fewer seeds so far, which says little."
    )


def test_a_stream_in_which_nobody_planted_was_found_has_no_median() -> None:
    assert "| 3 of 16 |  | 90 | 12 |" in _row("batch", stream([0.01, 0.0, 0.02]))


def test_real_runs_above_the_rate_are_named_and_few_seeds_too() -> None:
    told = "\n".join(_real_verdict({"batch": real(10, 11, 10), "sieve": real(0, 0, 0, 0, 0)}))
    assert "Fewer than five seeds: batch: 3 seeds." in told
    assert "**The interval lies above the set rate** in: batch at 1 %." in told
    told = "\n".join(_real_verdict({"batch": real(5, 4, 6, 5, 5)}))
    assert "No interval lies above the set rate." in told and "Fewer" not in told


def test_of_one_run_there_is_no_interval() -> None:
    (row,) = [line for line in _real({"real": {"batch": real(10), "sieve": []}}) if line.startswith("| batch")]
    assert row == "| batch | now | 1 | 2.0 | 2.0 | 0.10 | 2.0 | 4 |"


def test_what_was_before_is_shown_beside_streams_that_are_there_alone() -> None:
    found = {"earlier": {"seeds": 4, "synthetic": {"a": [5.0, 4.0, 6.0, 3, 16, 70], "gone": [1.0, 0.0, 2.0, 1, 9, 8]}},
             "synthetic": {"a": stream([0.02, 0.01, 0.03], seeds=8)}}  # fmt: skip
    told = "\n".join(_earlier(found))
    assert "| a | 5.0 (4.0 to 6.0) | 2.0 (1.0 to 3.0) | 3 of 16 | 3 of 16 | 70 |" in told and "gone" not in told
    assert "(4 seeds before, 8 now)" in told.replace("\n", " ")


def test_where_pairs_come_round_more_often_the_upper_end_is_judged() -> None:
    def row(condemned: list[float]) -> dict[str, Any]:
        return {**stream(condemned, rate=0.01), "returning": [7, 2]}

    told = "\n".join(_oftener({"a": row([0.004, 0.002, 0.008]), "b": row([0.008, 0.005, 0.012])}))
    assert "| a | 8 | 0.40 (0.20 to 0.80) | 2 of 7 | 90 | 12 |" in told
    assert "**The upper end of the interval lies above the set rate** in: b." in told
    assert "The upper end of no interval" in "\n".join(_oftener({"a": row([0.004, 0.002, 0.008])}))
    assert _oftener({}) == []
