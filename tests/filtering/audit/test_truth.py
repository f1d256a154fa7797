"""A ranking against what is known to be planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memsieve.filtering.audit.pair_scores import score_pairs
from memsieve.filtering.audit.query import AuditQuery
from memsieve.filtering.audit.select import image_scores
from memsieve.filtering.audit.truth import judge_ranking, ranked_with_truth
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.asked import added
from tests.filtering.audit.written import row, sha256


def test_repeats_by_content_or_by_the_whole_sha256(tmp_path: Path) -> None:
    path, names = tmp_path / "truth.parquet", ("a", "b", "c")
    pq.write_table(pa.table({"group": [sha256("a")[:32], sha256("b")], "repeats": [7, 60]}), path)
    with AuditQuery() as query:
        rows = added(
            query, "audit", tmp_path / "run", *(row(n, [v, v]) for n, v in zip(names, (1.0, 3.0, 2.0), strict=True))
        )
        score_pairs(query, rows, ("magnitude",))
        image_scores(query, rows)
        scores, repeats = ranked_with_truth(query, path)
        assert scores.tolist() == [3.0, 2.0, 1.0] and repeats.tolist() == [60, 0, 7]
        pq.write_table(pa.table({"group": ["a"]}), path)
        for file in (path, tmp_path / "none.parquet"):
            with pytest.raises(SettingsError, match="--truth '.*' cannot be read"):
                ranked_with_truth(query, file)


def test_planted_pairs_against_the_others() -> None:
    scores = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    found = judge_ranking(scores, np.array([50, 1, 200, 1, 20, 1]), 50, Path("t"))
    assert found["planted_pairs"] == 2 and found["auc"] == pytest.approx((4 + 3) / 8)
    assert found["by_repeats"] == {"50": {"pairs": 1, "auc": 1.0}, "200": {"pairs": 1, "auc": 0.75}}
    assert found["precision_at"] == {"2": 0.5}


@pytest.mark.parametrize("repeats", [[1, 1], [50, 60]])
def test_a_ranking_of_one_kind_cannot_be_judged(repeats: list[int]) -> None:
    with pytest.raises(SettingsError, match=f"{sum(r >= 50 for r in repeats)} of 2 scored pairs are planted 50 times"):
        judge_ranking(np.array([2.0, 1.0]), np.array(repeats), 50, Path("t"))
