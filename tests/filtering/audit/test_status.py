"""Which tasks are done, missing, stale or gone, and when the rest will be."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from memsieve.filtering.audit.folder import AuditFolder, Marker
from memsieve.filtering.audit.status import ACTIVE_SECONDS, _eta, audit_status, task_state, why_useless
from memsieve.filtering.audit.tasks import Task, Tasks
from memsieve.filtering.data.archives import shard_identity
from memsieve.filtering.data.config import DataConfig
from tests.filtering.audit.written import row, write_audit


@pytest.fixture
def done(tmp_path: Path) -> tuple[AuditFolder, Tasks, Task, Marker]:
    """An audit whose shard is there, and the one that was scored."""
    folder = AuditFolder(write_audit(tmp_path / "run", [row("a"), row("b", status="bad_image", error="broken")]))
    (task,) = folder.tasks()
    Path(task.name).write_bytes(b"shard")
    marker = folder.read_marker(task)
    assert marker is not None
    marker = replace(marker, identity=shard_identity(task.name))
    folder.write_marker(task, marker)
    return folder, Tasks(DataConfig(path=task.name), known=[task]), task, marker


def test_a_task_is_done_until_something_changes(done: tuple[AuditFolder, Tasks, Task, Marker]) -> None:
    folder, tasks, task, marker = done

    def state(config_hash: str = "c") -> tuple[str, str]:
        found = task_state(folder, tasks, task, config_hash)
        return found.state, found.why

    assert state() == ("done", "")
    assert state("other") == ("stale", "scored with other settings or another model")
    folder.write_marker(task, replace(marker, parquet_bytes=1))
    assert state() == ("stale", "its scores are not those of its marker")
    folder.write_marker(task, marker)
    Path(task.name).write_bytes(b"another shard")
    assert state() == ("stale", "the data changed since it was scored")
    Path(task.name).unlink()
    assert state()[0] == "gone"
    folder.scores(task).unlink()
    assert state() == ("missing", "its scores were removed")
    folder.marker_file(task).unlink()
    assert state() == ("missing", "not scored yet")


def test_totals(done: tuple[AuditFolder, Tasks, Task, Marker]) -> None:
    status = audit_status(done[0].root)
    assert status.complete and not status.useless
    assert (status.rows, status.failed, dict(status.statuses)) == (2, 1, {"ok": 1, "bad_image": 1})
    assert status.eta_seconds == 0.0 and status.as_dict()["done"] == 1


def test_why_nothing_can_be_used(tmp_path: Path) -> None:
    assert why_useless(write_audit(tmp_path / "some", [row("a"), row("b", status="bad_image")])) is None
    bad = [row("b", status="bad_image", error="it is broken"), row("c", status="no_caption", error="it has none")]
    said = why_useless(write_audit(tmp_path / "none", bad))
    assert said == "no sample of 2 can be used (bad_image 1, no_caption 1); the first: 'b': it is broken"
    assert why_useless(write_audit(tmp_path / "empty", [])) == "no sample can be used: there is none in 1 shards"


def test_the_rest_at_the_rate_of_the_latest_tasks(done: tuple[AuditFolder, Tasks, Task, Marker]) -> None:
    now = time.time()
    markers = [replace(done[3], written=now - 10.0 * i) for i in range(4)]
    assert _eta(3, markers) == pytest.approx(30.0)
    assert _eta(0, markers) == 0.0 and _eta(3, markers[:1]) is None
    assert _eta(3, [replace(one, written=one.written - ACTIVE_SECONDS - 1) for one in markers]) is None
