"""An evaluation over files: duplicates count once, groups come from the files, measurements are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.detect.evaluate import EvaluationSettings
from memsieve.inference.detect.evaluate_run import evaluate_rows
from memsieve.inference.opened import open_model
from memsieve.inference.prompts.lists import PromptRow


def rows(*prompts: str, group: str | None = None) -> list[PromptRow]:
    return [PromptRow(line, prompt, group) for line, prompt in enumerate(prompts, 1)]


def test_rows_are_evaluated_and_kept(build_pipeline: Callable[..., Any], tmp_path: Path) -> None:
    model, out = open_model(build_pipeline()), tmp_path / "e.json"
    settings = EvaluationSettings(detect=DetectSettings(schedule_steps=4), resamples=20, timed_prompts=1)
    memorized, ordinary = rows("cat", "red", "cat", group="g"), rows("dog", "hat", "old tree")
    found = evaluate_rows(model, memorized, ordinary, settings, out=out)
    (result,) = found.results
    assert (result.memorized, result.memorized_groups, result.ordinary, result.ordinary_groups) == (2, 1, 3, 3)
    written = json.loads(out.read_text())
    assert written["results"][0]["auc"]["value"] == result.auc.value and found.seconds_per_generation > 0
    measured = out.with_suffix(".measured.jsonl")
    assert len(measured.read_text().splitlines()) == 1 + 5
    again = evaluate_rows(model, memorized, ordinary, settings, out=out, resume=True)
    assert again.results[0].auc == result.auc and len(measured.read_text().splitlines()) == 1 + 5
    with pytest.raises(ValueError, match="--resume needs --out FILE"):
        evaluate_rows(model, memorized, ordinary, settings, resume=True)
