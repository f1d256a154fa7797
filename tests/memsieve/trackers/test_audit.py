"""An audit in an offline W&B run, read back from its files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.memsieve.auditing import run
from tests.offline_wandb import records


def test_wandb_gets_numbers_and_no_samples_unless_asked(audited: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A real offline run; what is in it is read back from its files."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    result = run("report", audited, "--wandb", "memsieve-audit")
    assert result.exit_code == 0, result.output
    (logged,) = (audited / "wandb").glob("offline-run-*/*.wandb")
    wanted = (b"audit/duplicate_samples", b"audit/magnitude/t_0_to_249")
    end = time.monotonic() + 30  # W&B's own process writes the file
    while not all(name in logged.read_bytes() for name in wanted) and time.monotonic() < end:
        time.sleep(0.1)
    record = logged.read_bytes()
    assert all(name in record for name in wanted)
    shared = (audited / "shared" / "report.html").read_text()
    assert "pair 0" not in shared and "data:image" not in shared and "caption left out" in shared
    assert "pair 0" in (audited / "report.html").read_text()
    assert b"pair 0" not in record
    told = {}
    while not told and time.monotonic() < end:
        updates = [one for found in records(logged) if found.HasField("summary") for one in found.summary.update]
        told = {one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in updates}
    assert (told["audit/rows"], told["audit/failed"], told["audit/pairs"]) == (21, 1, 15)
    assert (told["audit/status/ok"], told["audit/status/no_image"]) == (20, 1)
