"""What a minimisation leaves behind is what a pipeline's call takes, and the numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.minimize.edits import Suggestion
from memsieve.inference.minimize.files import write_minimized
from memsieve.inference.minimize.minimize import minimize
from memsieve.inference.minimize.settings import MinimizeSettings


def test_tensors_and_numbers(build_pipeline: Callable[..., Any], tmp_path: Path) -> None:
    settings, how = DetectSettings(schedule_steps=10, guidance_scale=3.0), MinimizeSettings(iterations=1)
    result = minimize(build_pipeline(), "cat", 0.1, images=2, how=how, settings=settings)
    write_minimized(tmp_path / "new" / "out", result, [Suggestion("dog", "replace", 0.5, None)])
    tensors = load_file(tmp_path / "new" / "out" / "embeddings.safetensors")
    given = {name: value for name, value in result.arguments.items() if isinstance(value, torch.Tensor)}
    assert set(tensors) == set(given) and all(torch.equal(tensors[name], given[name]) for name in given)
    found = json.loads((tmp_path / "new" / "out" / "minimize.json").read_text())
    assert found["value"] == result.value and found["trace"] == result.trace and found["met"] == [False] * 2
    assert found["suggestions"] == [{"prompt": "dog", "change": "replace", "score": 0.5, "p": None}]
