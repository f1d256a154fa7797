"""The benchmark of false drops, part by part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.common import NUMBERS
from benchmarks.false_drops.run import interval, main


def test_false_drops_of_a_part_leave_the_other_part_as_it_is(tmp_path: Path) -> None:
    """On a machine that has no cells, too: what is published of the streams outlives a measurement of real runs."""
    out, page = tmp_path / "benchmarks" / "false_drops.json", tmp_path / "page.md"
    shutil.copytree(NUMBERS, tmp_path / "benchmarks")
    before = json.loads(out.read_text())
    main(part="real", work=tmp_path / "work", out=out, page=page, real_seeds=0)
    after = json.loads(out.read_text())
    assert after["real"] == {"batch": [], "sieve": []} != before["real"]
    assert after["synthetic"] == before["synthetic"] and after["earlier"] == before["earlier"]


def test_the_interval_of_a_setting_is_over_its_seeds() -> None:
    assert interval([0.02] * 8) == [0.02] * 3, "of seeds that are alike, however many pairs each had"
    mean, low, high = interval([0.0, 0.1])
    assert (mean, low, high) == (0.05, 0.0, 0.1)
