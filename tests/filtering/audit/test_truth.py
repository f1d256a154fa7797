"""A ranking against what is known to be planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memsieve.filtering.audit.truth import judge_ranking, repeats_of
from memsieve.filtering.settings import SettingsError


def test_repeats_by_content_or_by_the_whole_sha256(tmp_path: Path) -> None:
    path = tmp_path / "truth.parquet"
    pq.write_table(pa.table({"group": ["a" * 32, "b" * 64], "repeats": [7, 60]}), path)
    assert repeats_of(["b" * 32, "c" * 32, "a" * 32], path).tolist() == [60, 0, 7]
    pq.write_table(pa.table({"group": ["a"]}), path)
    for file in (path, tmp_path / "none.parquet"):
        with pytest.raises(SettingsError, match="--truth '.*' cannot be read"):
            repeats_of(["a" * 32], file)


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
