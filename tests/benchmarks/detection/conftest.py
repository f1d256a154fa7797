"""A dataset with planted pairs, and what was measured on it of a model that copies nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.detection import levels
from tests.benchmarks.planted_data import planted_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_data(tmp_path_factory.mktemp("detection") / "data", [(2, 6), (1, 3)], ordinary=12, held_out=100)


@pytest.fixture(scope="session")
def folder(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the JSON of a model lies of which no planted pair comes back."""
    out = tmp_path_factory.mktemp("levels")
    config = out / "config.yaml"
    config.write_text("train: {steps: 40, batch_size: 8, seed: 3}\n")
    threads = torch.get_num_threads()  # the command sets them for its process
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "RUNS", out)
        patch.setattr(levels, "STEPS", {"magnitude": (1,)})
        levels.main(model, data, "plain", config, out, base=model, ordinary=99, images="1", steps_trained=None)
    torch.set_num_threads(threads)
    return out


@pytest.fixture
def found(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "detect-plain.json").read_text()))
