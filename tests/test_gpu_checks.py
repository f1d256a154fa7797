"""scripts/gpu_checks at its smallest, as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "scripts" / "run_gpu_checks.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def checked(folder: Path, families: str) -> None:
    done = run("--size", "tiny", "--steps", "2", "--families", families, "--out", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "results.json").read_text())
    assert list(found) == families.split(",") and "s per step" in done.stdout
    for family, values in found.items():
        assert values["audited"] > 32 and values["train_gib"] > 0.1 and values["step_seconds"] > 0
        assert (folder / family / "run" / "pipeline" / "model_index.json").is_file()
        if family == "flux":
            assert "detected" not in values and "distilled" in done.stdout
        else:
            assert values["detected"] == 8


def test_one_family(tmp_path: Path) -> None:
    checked(tmp_path, "flux")


@pytest.mark.slow
def test_the_others(tmp_path: Path) -> None:
    checked(tmp_path, "sd,sdxl,sd3,flux_guided,pixart")


def test_no_time_and_wrong_words(tmp_path: Path) -> None:
    done = run("--size", "tiny", "--families", "sd", "--minutes", "-1", "--out", str(tmp_path))
    assert done.returncode == 1 and "no time left" in done.stdout
    assert "'sd9' is not known" in run("--families", "sd9").stderr
    if not torch.cuda.is_available():
        assert "there is no GPU; --size tiny runs on a CPU" in run("--out", str(tmp_path)).stderr
