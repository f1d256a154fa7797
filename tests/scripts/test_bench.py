"""scripts/bench: every verb leads to a benchmark, and a wrong one to the usage."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCH = (ROOT / "scripts" / "bench").read_text()


def test_every_verb_has_its_module_and_its_lines_of_help() -> None:
    verbs = dict(re.findall(r"^    ([\w-]+)\) MODULE=([\w.]+) ;;$", BENCH, re.MULTILINE))
    assert {"audit", "quality", "false-drops"} <= verbs.keys() and len(verbs) == BENCH.count(" MODULE=")
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    for verb, module in verbs.items():
        assert find_spec(f"benchmarks.{module}") is not None, module
        assert re.search(rf"^#   {verb} +\w", BENCH, re.MULTILINE), verb
        assert f"`scripts/bench {verb}`" in readme and f"`benchmarks.{module}`" in readme, verb


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_wrong_verb_gets_the_usage() -> None:
    done = subprocess.run(["bash", "scripts/bench", "nothing"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "Verbs:" in done.stderr and "audit" in done.stderr
    helped = subprocess.run(["bash", "scripts/bench", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert helped.returncode == 0 and "Verbs:" in helped.stdout
