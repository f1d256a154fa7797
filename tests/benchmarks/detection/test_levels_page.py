"""What the page says of detection by number of repeats, of a model that was measured."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.detection import levels
from benchmarks.detection.data import Bench
from benchmarks.detection.levels_page import NOTHING_COPIED, other_models


def page(folder: Path, part: dict[str, Any]) -> str:
    (folder / "detect-plain.json").write_text(json.dumps(part))
    return "\n".join(other_models(folder))


def test_the_page_says_that_detection_of_copies_cannot_be_measured(found: dict[str, Any], tmp_path: Path) -> None:
    told = page(tmp_path, found)
    assert told.count(NOTHING_COPIED) == 1 and "| that copy |" not in told
    assert "nothing of why" not in told and "It starts high" not in told and "says little" not in told
    assert "| 6 repeats | 2 | 0.00 |" in told and "about 12 times its number of repeats" in told
    assert f"| `plain` | {found['per_step_auc'][0]:.2f} |" in told


def test_where_something_copies_it_is_measured_and_explained(
    found: dict[str, Any], folder: Path, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what was measured already: one of the pairs with 6 repeats is said to have come back."""
    bench, copied = Bench(model, data, 99), deepcopy(found["copies"])
    one = next(caption for caption, pair in copied["pairs"].items() if pair["repeats"] == 6)
    copied["pairs"][one]["rate"] = 0.5
    monkeypatch.setattr(levels, "STEPS", {"magnitude": (1,)})
    everything = replace(levels.SETTINGS, steps=10, images_per_prompt=1)
    known = levels._measured(bench, everything, found["asked"], folder / "detect-plain.measured.jsonl")
    detection = levels.detection(bench, known, [1], copied)
    assert detection["that copy"][0]["memorized"] == 1 and detection["that copy"][0]["memorized_groups"] == 1
    told = page(tmp_path, {**found, "copies": copied, "detection": detection})
    assert "| that copy | 1 | 0.50 |" in told and "| 6 repeats | 2 | 0.25 |" in told and "| all | 3 | 0.17 |" in told
    assert NOTHING_COPIED not in told and "It starts high" in told
    assert "### Why the mean over all steps says little here" in told


def test_a_run_without_its_config_is_said_to_be_unknown(found: dict[str, Any], tmp_path: Path) -> None:
    told = page(tmp_path, {**found, "trained": levels._training(None, 20)})
    assert "How long it was trained is not known" in told and "times its number" not in told
    config = tmp_path / "config.yaml"
    config.write_text("train: {steps: 40, batch_size: 8, seed: 3}\n")
    told = page(tmp_path, {**found, "trained": levels._training(config, 20)})
    assert "Seed 3, 20 steps of 8, stopped there of 40: each planted pair was seen about 5.9 times" in told
