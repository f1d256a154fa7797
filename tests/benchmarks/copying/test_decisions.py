"""What a finished cell is asked, on ledgers written by hand."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.copying.decisions import _margin, decisions, thresholds
from memsieve.filtering.ledger import Ledger
from memsieve.filtering.types import Action, Reason, Verdict, Visit

Rows = list[dict[str, Any]]


def parts_of(truth: Rows) -> tuple[Rows, dict[str, list[str]]]:
    """The rows of the stream, and the pairs of each case."""
    stream = [row for row in truth if row["part"] == "stream"]
    return stream, {case: sorted({row["pair"] for row in stream if row["case"] == case}) for case in
                    {row["case"] for row in stream}}  # fmt: skip


@pytest.mark.parametrize("signal", ["magnitude", "anchored_magnitude"])
def test_the_papers_threshold_is_chosen_where_planted_and_ordinary_visits_part(
    made: tuple[Path, Rows], tmp_path: Path, signal: str
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    for step, row in enumerate(parts_of(made[1])[0]):
        magnitude = 3.0 + 0.01 * (step % 5) if row["repeats"] >= 6 else 1.0 + 0.01 * (step % 5)
        verdict = Verdict(Visit(row["key"]), 1.0, Action.KEEP, Reason.CLEAN, 10, {signal: magnitude})
        ledger.add(step, [verdict])
    ledger.flush()
    found = thresholds(tmp_path, made[0], passes=5, least=30, signal=signal)
    assert 1.04 <= found["best"] < 3.0
    assert found["best_shares"] == [1.0, 0.0]
    assert 1.0 < found["five"] <= 1.04 and found["five_shares"][1] <= 0.05


def test_what_became_of_each_pair_by_hand(made: tuple[Path, Rows], tmp_path: Path) -> None:
    """A pair whose last visits were dropped, one whose group was condemned, and one of many files."""
    stream, pairs = parts_of(made[1])
    [late], [condemned], [near] = (pairs[case] for case in ("exact 20", "paraphrase 30", "family 30"))
    visits: Counter[str] = Counter()
    ledger = Ledger(tmp_path / "ledger")
    for step, row in enumerate(stream):
        visits[row["pair"]] += 1
        dropped = row["pair"] == late and visits[late] > 3
        action, reason = (Action.DROP, Reason.CONDEMNED) if dropped else (Action.KEEP, Reason.CLEAN)
        ledger.add(step, [Verdict(Visit(row["key"]), float(not dropped), action, reason)])
    ledger.flush()
    files = [row["group"] for row in stream if row["pair"] == near]
    half = sorted(set(files))[: len(set(files)) // 2]
    groups = {row["group"]: (0.5, -1) for row in stream}
    groups |= {row["group"]: (7.0, 30) for row in stream if row["pair"] == condemned}
    groups |= dict.fromkeys(half, (4.0, 20))
    pq.write_table(
        pa.table({
            "group": list(groups),
            "evidence_max": [value for value, _ in groups.values()],
            "condemned_step": [step for _, step in groups.values()],
        }),
        tmp_path / "groups.parquet",
    )  # fmt: skip
    found = decisions(tmp_path, made[0], "stream", "evidence")
    told = {row["pair"]: row for row in found["pairs"]}
    assert told[late] == {"pair": late, "case": "exact 20", "repeats": 4, "visits": 4, "trained": 3, "late": 1.0,
        "first": 3, "condemned": 0.0, "dropped": True, "score": 0.5}  # fmt: skip
    assert (told[condemned]["late"], told[condemned]["condemned"], told[condemned]["dropped"]) == (0.0, 1.0, True)
    assert told[condemned]["score"] == 7.0
    share = sum(file in half for file in files) / len(files)
    assert told[near]["condemned"] == pytest.approx(share, abs=1e-3)
    assert told[near]["score"] == pytest.approx(4.0 * share + 0.5 * (1 - share), abs=1e-3)
    assert found["singles"]["ordinary"]["dropped"] == []
    assert found["singles"]["ordinary"]["score"] == [0.5] * 12
    assert found["singles"]["rare"]["count"] == 3


def test_what_dedup_takes_out_is_dropped_before_training(made: tuple[Path, Rows], tmp_path: Path) -> None:
    pairs = parts_of(made[1])[1]
    told = {row["pair"]: row for row in decisions(tmp_path / "none", made[0], "dedup", "removed")["pairs"]}
    assert told[pairs["exact 20"][0]]["score"] == 3.0 and told[pairs["exact 20"][0]]["dropped"] is True
    assert told[pairs["family 30"][0]]["dropped"] is False


def test_a_margin_is_log_m_over_tau_or_the_rules_own_number() -> None:
    assert _margin({"magnitude": 2.0 * math.e, "threshold": 2.0, "score": None}) == pytest.approx(1.0)
    anchored = {"magnitude": None, "anchored_magnitude": 0.5 * math.e, "threshold": 0.5, "score": None}
    assert _margin(anchored) == pytest.approx(1.0)
    assert _margin({"magnitude": None, "threshold": 0.0, "score": 9.0, "evidence": -0.3}) == -0.3
    # a group's bar of evidence is no tau: it is infinite before the first look, and may be negative
    assert _margin({"magnitude": 2.0, "threshold": math.inf, "score": 0.5}) == 0.5
    assert _margin({"magnitude": 2.0, "threshold": -1.0, "score": 0.5}) == 0.5
