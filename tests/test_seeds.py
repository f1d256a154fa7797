"""What looks at a trained model passes from other seeds too: the surer test that it does not hang on a processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_what_trains_passes_from_another_seed(seed: int) -> None:
    """Models with other weights, and a fixture that is trained from them until its premise holds."""
    words = ["-q", "--tb=short", "-p", "no:cacheprovider", "-m", "trains and not slow"]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "MEMSIEVE_TEST_SEED": str(seed)}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:]
