"""The numbers of an audit: pairs and their ranking, curves, what could not be used."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memsieve.filtering.audit.summary import summarise
from tests.filtering.audit.written import DECIDING, row, sha256, write_audit


def test_images_are_ranked_by_the_mean_over_their_rows(tmp_path: Path) -> None:
    rows = [row("a", [1.0, 1.0]), row("b", [2.0, 4.0]), row("a", [9.0, 9.0]), row("c", [None, None]), row("d")]
    rows.append(row("broken", sha256=None, status="bad_image", error="it is broken"))
    found = summarise(write_audit(tmp_path, rows), top=1)
    assert [(pair.content, pair.score, pair.copies) for pair in found.top] == [(sha256("a")[:32], 5.0, 2)]
    values = found.values
    assert (values["rows"], values["pairs"], values["scored_pairs"], values["failed"]) == (6, 4, 2, 1)
    assert values["signal"] == "magnitude" and values["score_quantiles"]["1"] == 5.0
    assert values["measures"]["magnitude"]["0.5"] == pytest.approx(1.5), "of each image once: 1, 1, 2, 4"
    assert found.curve == ([3.0, 5.0], [0.5, 0.0])
    assert [(error["key"], error["status"]) for error in found.errors] == [("broken", "bad_image")]
    assert values["model"] == DECIDING["model"] and "model" not in values["settings"]
    assert sum(int(counts.sum()) for _, _, counts in found.histograms["magnitude"]) == 2 + 2


def test_histograms_are_by_timestep(tmp_path: Path) -> None:
    found = summarise(write_audit(tmp_path, [row("a", [1.0, 2.0]), row("b", [1.0, 2.0])]))
    by_bin = {label: int(counts.sum()) for label, _, counts in found.histograms["loss"]}
    assert by_bin == {"t 0 to 24": 2, "t 25 to 49": 0, "t 50 to 74": 2, "t 75 to 99": 0}


def test_without_a_model_there_are_no_scores(tmp_path: Path) -> None:
    found = summarise(write_audit(tmp_path, [row("a"), row("b")], {"model": None, "data": {"resolution": 16}}))
    assert found.values["signal"] is None and found.top == [] and found.histograms == {}
    assert found.values["pairs"] == 2 and found.values["scored_pairs"] == 0


def test_a_truth_marks_planted_pairs(tmp_path: Path) -> None:
    truth = pa.table({"group": [sha256("a")[:32]], "repeats": [60]})
    pq.write_table(truth, tmp_path / "truth.parquet")
    root = write_audit(tmp_path / "run", [row("a", [3.0, 3.0]), row("b", [1.0, 1.0])])
    found = summarise(root, truth=tmp_path / "truth.parquet")
    assert [pair.planted for pair in found.top] == [True, False] and found.values["truth"]["auc"] == 1.0
