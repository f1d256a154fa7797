"""The benchmark scripts: every verb leads to a script, and every page is what its script makes of its numbers."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
BENCH = (ROOT / "scripts" / "bench").read_text()


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_verb_has_its_script_and_its_line_of_help() -> None:
    verbs = dict(re.findall(r"^    ([\w-]+)\) SCRIPT=(\w+\.py) ;;$", BENCH, re.MULTILINE))
    assert {"audit", "quality", "false-drops"} <= verbs.keys() and len(verbs) == BENCH.count(" SCRIPT=")
    for verb, file in verbs.items():
        assert (ROOT / "scripts" / file).is_file() and re.search(rf"^#   {verb} +\w", BENCH, re.MULTILINE), verb


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_wrong_verb_gets_the_usage() -> None:
    done = subprocess.run(["bash", "scripts/bench", "nothing"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "Verbs:" in done.stderr and "audit" in done.stderr
    helped = subprocess.run(["bash", "scripts/bench", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert helped.returncode == 0 and "Verbs:" in helped.stdout


PAGES = {
    "audit": ("bench_audit_page", "benchmarks-audit.md"),
    "detect": ("bench_page", "benchmarks-detection.md"),
    "false_drops": ("false_drop_page", "benchmarks-false-drops.md"),
    "signals": ("signals_page", "benchmarks-signals.md"),
    "speed": ("bench_speed_page", "benchmarks-speed.md"),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_made_of_the_numbers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written anew beside a copy of the numbers, so that a plot is not drawn over the one that is there."""
    writer, page = PAGES[name]
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    numbers = tmp_path / "benchmarks"
    shutil.copytree(ROOT / "docs" / "benchmarks", numbers)
    script(writer).write_page(tmp_path / page, json.loads((numbers / f"{name}.json").read_text()))
    assert (tmp_path / page).read_text() == (ROOT / "docs" / page).read_text()


def test_false_drops_of_a_part_leave_the_other_part_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that has no cells, too: what is published of the streams outlives a measurement of real runs."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    out, page = tmp_path / "benchmarks" / "false_drops.json", tmp_path / "page.md"
    shutil.copytree(ROOT / "docs" / "benchmarks", tmp_path / "benchmarks")
    before = json.loads(out.read_text())
    script("bench_false_drops").main(part="real", work=tmp_path / "work", out=out, page=page, real_seeds=0)
    after = json.loads(out.read_text())
    assert after["real"] == {"batch": [], "sieve": []} != before["real"]
    assert after["synthetic"] == before["synthetic"] and after["earlier"] == before["earlier"]


@pytest.mark.slow
def test_an_audit_is_timed_beside_its_own_forwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a few samples: every arm runs, does all its work, and is compared with the forwards."""
    pytest.importorskip("resvg_py")
    speed = script("bench_audit_speed")
    monkeypatch.setattr(speed, "SAMPLES", 20)
    monkeypatch.setattr(speed, "DECODED", {"32-pixel PNG": (32, "PNG"), "64-pixel JPEG": (64, "JPEG")})
    found = speed.throughput(tmp_path, ROOT / "assets" / "tiny-sd", repeats=2)
    assert len(found["rows"]) == 6 and all(len(times) == 2 for times in found["times"].values())
    for name, row in found["rows"].items():
        assert row["cpu_seconds_per_sample"] > 0.001, name
        assert 0.3 < row["UNet_over_this"]["median"] < 1.7, name
    assert found["rows"]["forwards"]["forwards_over_this"]["median"] == 1.0
    markers = list((tmp_path / "speed" / "run" / "markers").glob("*.json"))
    assert [json.loads(marker.read_text())["scored"] for marker in markers] == [20]
