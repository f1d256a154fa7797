"""All that a GPU must do is done on a device that is not the processor: nothing is left behind on either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import second_device
from tests.tiny_models import TINY_FAMILIES
from tests.train.second_device_worker import JOBS

pytestmark = pytest.mark.skipif(not second_device.AVAILABLE, reason="torch 2.10 brought backends written in Python")
ROOT = Path(__file__).parents[2]


def on_second_device(job: str, family: str, folder: Path) -> None:
    command = [sys.executable, "-m", "tests.train.second_device_worker", job, family, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "done" in done.stdout


@pytest.mark.parametrize("job", ["batch", "lora"])
def test_a_fine_tune_its_audit_and_its_checks(job: str, tmp_path: Path) -> None:
    on_second_device(job, "sd", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY_FAMILIES)
@pytest.mark.parametrize("job", JOBS)
def test_every_family(job: str, family: str, tmp_path: Path) -> None:
    if job == "sieve" and family not in ("sd", "sdxl"):
        pytest.skip("Min-SNR is for diffusion models, and the sieve is the same for all")
    on_second_device(job, family, tmp_path)
