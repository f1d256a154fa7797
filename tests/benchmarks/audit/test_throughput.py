"""The timing of audits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.audit import throughput
from benchmarks.common import MODEL


@pytest.mark.slow
def test_an_audit_is_timed_beside_its_own_forwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a few samples: every arm runs, does all its work, and is compared with the forwards."""
    pytest.importorskip("resvg_py")
    monkeypatch.setattr(throughput, "SAMPLES", 20)
    monkeypatch.setattr(throughput, "DECODED", {"32-pixel PNG": (32, "PNG"), "64-pixel JPEG": (64, "JPEG")})
    found = throughput.throughput(tmp_path, MODEL, repeats=2)
    assert len(found["rows"]) == 6 and all(len(times) == 2 for times in found["times"].values())
    for name, row in found["rows"].items():
        assert row["cpu_seconds_per_sample"] > 0.001, name
        assert 0.3 < row["UNet_over_this"]["median"] < 1.7, name
    assert found["rows"]["forwards"]["forwards_over_this"]["median"] == 1.0
    markers = list((tmp_path / "speed" / "run" / "markers").glob("*.json"))
    assert [json.loads(marker.read_text())["scored"] for marker in markers] == [20]
