"""How far an audit is: which tasks are done, missing, stale or unreachable, and when it will be finished."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.folder import AuditFolder, Marker
from memsieve.filtering.audit.tasks import Task, Tasks
from memsieve.filtering.settings import SettingsError

__all__ = ["Status", "TaskState", "audit_status", "finished_tasks", "task_state", "why_useless"]

RECENT: Final = 50
"""Tasks that the rate is taken from."""
ACTIVE_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class TaskState:
    """``state``: done, missing, stale or gone (the data is not there); ``why`` says it in words."""

    task: Task
    state: str
    why: str = ""
    marker: Marker | None = None


@dataclass(slots=True)
class Status:
    """All tasks of an audit, and its totals."""

    states: list[TaskState]
    counts: Counter[str] = field(default_factory=Counter)
    """Tasks by state, and ``truncated`` ones among the done."""
    rows: int = 0
    scored: int = 0
    failed: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    eta_seconds: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every task is done."""
        return self.counts["done"] == len(self.states)

    @property
    def useless(self) -> bool:
        """Whether every task is done and no sample can be used."""
        return self.complete and self.failed == self.rows

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "complete": self.complete,
            "tasks": len(self.states),
            **{name: self.counts[name] for name in ("done", "missing", "stale", "gone", "truncated")},
            "rows": self.rows,
            "scored": self.scored,
            "failed": self.failed,
            "statuses": dict(sorted(self.statuses.items())),
            "eta_seconds": self.eta_seconds,
        }


def task_state(folder: AuditFolder, tasks: Tasks, task: Task, config_hash: str) -> TaskState:
    """What is known of one task, from its marker, its scores and its data as they are now."""
    marker = folder.read_marker(task)
    if marker is None:
        return TaskState(task, "missing", "not scored yet")
    try:
        size = folder.scores(task).stat().st_size
    except FileNotFoundError:
        return TaskState(task, "missing", "its scores were removed")
    if size != marker.parquet_bytes:
        return TaskState(task, "stale", "its scores are not those of its marker", marker)
    if marker.config_hash != config_hash:
        return TaskState(task, "stale", "scored with other settings or another model", marker)
    try:
        identity = tasks.identity(task)
    except OSError as error:
        return TaskState(task, "gone", f"the data is not there: {error}", marker)
    if identity != marker.identity:
        return TaskState(task, "stale", "the data changed since it was scored", marker)
    return TaskState(task, "done", marker=marker)


def audit_status(root: Path) -> Status:
    """The state of the audit in ``root``.

    Raises:
        SettingsError: ``root`` is no audit.
    """
    folder = AuditFolder(root)
    values = folder.settings()
    config = AuditConfig.model_validate(values["config"])
    known = folder.tasks()
    tasks = Tasks(config.data, known=known)
    status = Status([task_state(folder, tasks, task, str(values["config_hash"])) for task in known])
    for state in status.states:
        status.counts[state.state] += 1
        if state.marker is None or state.state not in ("done", "gone"):
            continue
        status.rows += state.marker.rows
        status.scored += state.marker.scored
        status.failed += state.marker.failed
        status.statuses.update(state.marker.statuses)
        status.counts["truncated"] += state.marker.truncated
    left = len(known) - status.counts["done"] - status.counts["gone"]
    status.eta_seconds = _eta(left, (state.marker for state in status.states if state.marker is not None))
    return status


def finished_tasks(root: Path, *, partial: bool) -> tuple[Status, list[Task]]:
    """The state of the audit in ``root``, and its tasks that are done, in order.

    Raises:
        SettingsError: it is no audit, nothing of it is done, or it is not complete and ``partial`` is off.
    """
    status = audit_status(root)
    open_tasks = status.counts["missing"] + status.counts["stale"]
    if open_tasks and not partial:
        raise SettingsError(
            f"the audit in '{root}' is not complete: {open_tasks} of {len(status.states)} shards are missing or stale; "
            "run 'memsieve audit score' again, or add --partial to go on with the others"
        )
    done = [state.task for state in status.states if state.state in ("done", "gone")]
    if not done:
        raise SettingsError(f"the audit in '{root}' has no finished shard yet; run 'memsieve audit score'")
    return status, done


def why_useless(root: Path) -> str | None:
    """Why no sample of the audit in ``root`` can be used, in a sentence; None where one can, or where not all is done.

    Markers are believed: whether the data is still as it was is not looked at.
    """
    folder = AuditFolder(root)
    statuses: Counter[str] = Counter()
    tasks = folder.tasks()
    for task in tasks:
        marker = folder.read_marker(task)
        if marker is None or marker.failed < marker.rows:
            return None
        statuses.update(marker.statuses)
    if not statuses:
        return f"no sample can be used: there is none in {len(tasks)} shards"
    counts = ", ".join(f"{name} {number:,}" for name, number in statuses.most_common())
    for task in tasks:
        table = pq.read_table(folder.scores(task), columns=["key", "error"])
        if len(table):
            key, error = table["key"][0].as_py(), table["error"][0].as_py()
            return f"no sample of {statuses.total():,} can be used ({counts}); the first: '{key}': {error}"
    return None


def _eta(left: int, markers: Iterable[Marker]) -> float | None:
    """Seconds until the rest is done at the rate of the latest tasks; None where nothing is at work."""
    if not left:
        return 0.0
    times = sorted(marker.written for marker in markers)[-RECENT:]
    if len(times) < 2 or time.time() - times[-1] > ACTIVE_SECONDS:
        return None
    return left * (times[-1] - times[0]) / (len(times) - 1)
