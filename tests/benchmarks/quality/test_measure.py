"""What a finished cell is asked, on ledgers written by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.quality.measure import _margin, decisions, thresholds
from memsieve.filtering.ledger import Ledger
from memsieve.filtering.types import Action, Reason, Verdict, Visit
from tests.benchmarks.quality.conftest import truth_of


def test_the_papers_threshold_is_chosen_where_planted_and_ordinary_visits_part(data: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    for step, row in enumerate(truth_of(data, "stream")):
        magnitude = 3.0 + 0.01 * (step % 5) if row["repeats"] >= 12 else 1.0 + 0.01 * (step % 5)
        verdict = Verdict(Visit(row["key"]), 1.0, Action.KEEP, Reason.CLEAN, 10, {"magnitude": magnitude})
        ledger.add(step, [verdict])
    ledger.flush()
    found = thresholds(tmp_path, data, passes=2, least=24)
    assert 1.04 <= found["best"] < 3.0
    assert found["best_shares"] == [1.0, 0.0]
    assert 1.0 < found["five"] <= 1.04 and found["five_shares"][1] <= 0.05


def test_what_became_of_each_pair_by_hand(data: Path, tmp_path: Path) -> None:
    """A pair whose last visits were dropped, one whose group was condemned, and one of many images."""
    stream = truth_of(data, "stream")
    pairs = {case: sorted({row["pair"] for row in stream if row["case"] == case}) for case in ("level 24", "clean")}
    late, condemned = pairs["level 24"]
    near = [row for row in stream if row["case"] == "near_duplicate"]
    visits: dict[str, int] = {}
    ledger = Ledger(tmp_path / "ledger")
    for step, row in enumerate(stream):
        number = visits[row["pair"]] = visits.get(row["pair"], 0) + 1
        dropped = row["pair"] == late and number > 8
        action, reason = (Action.DROP, Reason.CONDEMNED) if dropped else (Action.KEEP, Reason.CLEAN)
        ledger.add(step, [Verdict(Visit(row["key"]), float(not dropped), action, reason)])
    ledger.flush()
    groups = {row["group"]: (0.5, -1) for row in stream}
    groups |= {row["group"]: (7.0, 30) for row in stream if row["pair"] == condemned}
    halves = sorted({row["group"] for row in near})
    groups |= dict.fromkeys(halves[: len(halves) // 2], (4.0, 20))
    pq.write_table(
        pa.table({
            "group": list(groups),
            "evidence_max": [value for value, _ in groups.values()],
            "condemned_step": [step for _, step in groups.values()],
        }),
        tmp_path / "groups.parquet",
    )  # fmt: skip
    found = decisions(tmp_path, data, "stream", "planted", "evidence")
    told = {row["pair"]: row for row in found["pairs"]}
    assert told[late] | {"score": 0} == {"pair": late, "case": "level 24", "repeats": 12, "visits": 12, "trained": 8,
        "late": 1.0, "first": 8, "condemned": 0.0, "dropped": True, "score": 0}  # fmt: skip
    assert (told[condemned]["late"], told[condemned]["condemned"], told[condemned]["dropped"]) == (0.0, 1.0, True)
    assert told[condemned]["score"] == 7.0
    share = sum(row["group"] in halves[: len(halves) // 2] for row in near) / len(near)
    assert told[near[0]["pair"]]["condemned"] == pytest.approx(share, abs=1e-3)
    assert told[near[0]["pair"]]["score"] == pytest.approx(4.0 * share + 0.5 * (1 - share), abs=1e-3)
    assert found["singles"]["clean"]["dropped"] == []
    assert found["singles"]["clean"]["score"] == [0.5] * 30
    removed = decisions(tmp_path / "none", data, "dedup", "planted", "removed")
    assert {row["pair"]: row["score"] for row in removed["pairs"]}[late] == 11.0
    assert {row["pair"]: row["dropped"] for row in removed["pairs"]}[near[0]["pair"]] is False


def test_a_margin_is_log_m_over_tau_or_the_rules_own_number() -> None:
    assert _margin({"magnitude": 2.0 * math.e, "threshold": 2.0, "score": None}) == pytest.approx(1.0)
    assert _margin({"magnitude": None, "threshold": 0.0, "score": 9.0, "evidence": -0.3}) == -0.3
    # a group's bar of evidence is no tau: it is infinite before the first look, and may be negative
    assert _margin({"magnitude": 2.0, "threshold": math.inf, "score": 0.5}) == 0.5
    assert _margin({"magnitude": 2.0, "threshold": -1.0, "score": 0.5}) == 0.5
