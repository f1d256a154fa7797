"""Detection by number of repeats, measured from beginning to end on a model that copies nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.detection import levels
from memsieve.inference.detect.detectors import DETECTORS
from tests.benchmarks.planted_data import planted_groups_of


def test_what_is_measured_exists() -> None:
    assert levels.STEPS.keys() <= DETECTORS.keys()
    assert all(1 <= step <= levels.SETTINGS.schedule_steps for steps in levels.STEPS.values() for step in steps)


def test_where_nothing_copies_all_else_is_measured(found: dict[str, Any], data: Path) -> None:
    assert {name: rows[0]["memorized"] for name, rows in found["detection"].items()} == {"all": 3, "3": 1, "6": 2}
    assert len(found["copies"]["pairs"]) == len(planted_groups_of(data)) == 3
    assert {level: rate["generations"] for level, rate in found["copies"]["levels"].items()} == {"3": 4, "6": 8}
    assert {level: rate["prompts"] for level, rate in found["copies"]["levels"].items()} == {"3": 1, "6": 2}
    assert found["early_exit"]["prompts"] == 3 and len(found["per_step_auc"]) == 10
    (first,) = found["detection"]["all"]
    assert found["per_step_auc"][0] == pytest.approx(first["auc"]["value"])
    assert [row["step"] for row in found["collapse"]] == [0, 2, 4, 6, 8]
