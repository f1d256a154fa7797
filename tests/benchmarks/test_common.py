"""What all benchmarks share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from benchmarks import common
from benchmarks.common import over_seeds, stamped


@pytest.mark.parametrize("seeds", range(2, 12))
def test_an_interval_over_seeds_is_students_and_never_narrower(seeds: int) -> None:
    values = (0.05 + 0.001 * np.random.default_rng(seeds).normal(size=seeds)).tolist()
    mean, low, high = over_seeds(values)
    half = t.ppf(0.975, seeds - 1) * np.std(values, ddof=1) / np.sqrt(seeds)
    assert mean == pytest.approx(np.mean(values)) and high - mean == pytest.approx(mean - low)
    assert 0.999 * half <= high - mean <= 1.2 * half


def test_a_share_is_not_below_nothing() -> None:
    assert over_seeds([0.0, 0.1])[1] == 0.0


def test_a_page_of_an_earlier_revision_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "MEASURED_AT", tmp_path / "measured_at.txt")
    assert stamped("# Page\n\nWords.\n\nMore.\n") == "# Page\n\nWords.\n\nMore.\n"
    (tmp_path / "measured_at.txt").write_text("abc1234\n")
    page = stamped("# Page\n\nWords.\n\nMore.\n").split("\n\n")
    assert page[0] == "# Page" and page[2:] == ["Words.", "More.\n"]
    assert "measured with revision abc1234; the code has changed since" in page[1]
