"""A detection over a file: what it claims, what a resumed run may ask, and a summary that adds up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.detect.run import DetectionRun, detect_file
from memsieve.inference.guided import GuidedModel
from memsieve.inference.opened import open_model


@pytest.fixture(scope="module")
def model(build_pipeline: Callable[..., Any]) -> GuidedModel:
    return open_model(build_pipeline())


@pytest.fixture
def run(tmp_path: Path) -> DetectionRun:
    (tmp_path / "p.txt").write_text("cat\n\nred dog\n")
    (tmp_path / "o.txt").write_text("a\nb c\nd\ne f\nd\n")
    return DetectionRun(
        prompts=tmp_path / "p.txt", out=tmp_path / "out", ordinary=tmp_path / "o.txt", false_positive_rate=0.2,
        settings=DetectSettings(steps=2, schedule_steps=5), progress=False,
    )  # fmt: skip


def test_the_summary_adds_up(model: GuidedModel, run: DetectionRun) -> None:
    summary = detect_file(model, run)
    assert (summary["read"], summary["scored"], summary["failed"], summary["ordinary"]) == (3, 2, 1, 4)
    assert summary["steps_per_prompt"] == 2 and json.loads((run.out / "summary.json").read_text()) == summary
    rows = [json.loads(line) for line in (run.out / "scores.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [1, 2, 3] and len(rows[0]["per_step"]) == 2


def test_a_folder_is_claimed_once(model: GuidedModel, run: DetectionRun, tmp_path: Path) -> None:
    detect_file(model, replace(run, per_step=False))
    assert json.loads((run.out / "scores.jsonl").read_text().splitlines()[0])["per_step"] == []
    with pytest.raises(ValueError, match="holds results already; add --resume"):
        detect_file(model, run)
    with pytest.raises(ValueError, match="begun with another per_step"):
        detect_file(model, replace(run, resume=True))
    (tmp_path / "p.txt").write_text("cat\n")
    with pytest.raises(ValueError, match="begun with another prompts"):
        detect_file(model, replace(run, resume=True, per_step=False))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("x")
    with pytest.raises(ValueError, match="is no folder of results"):
        detect_file(model, replace(run, out=tmp_path / "mine"))


def test_too_few_ordinary_prompts_are_said_before_anything_is_written(model: GuidedModel, run: DetectionRun) -> None:
    with pytest.raises(ValueError, match="needs at least 9 ordinary prompts, and there are 4"):
        detect_file(model, replace(run, false_positive_rate=0.1))
    assert not run.out.exists()
