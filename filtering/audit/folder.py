"""The folder of an audit: its settings, one Parquet file and one marker per task, and the lock."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from memsieve.filtering.audit.tasks import Task
from memsieve.filtering.files import write_json
from memsieve.filtering.folder_kind import what_it_is
from memsieve.filtering.settings import SettingsError

__all__ = ["AuditFolder", "Marker"]

WAIT_SECONDS: Final = 600
"""How long another rank waits for rank 0 to write the settings."""


@dataclass(frozen=True, slots=True)
class Marker:
    """Says that a task is done, for which bytes and which settings, and what was found."""

    task: str
    identity: dict[str, Any]
    config_hash: str
    model_hash: str | None
    rows: int
    scored: int
    failed: int
    statuses: dict[str, int]
    truncated: bool
    parquet_bytes: int
    seconds: float
    written: float = field(default_factory=time.time)


class AuditFolder:
    """Paths and small files of an audit at ``root``: ``audit.json``, ``scores/*.parquet``, ``markers/*.json``."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.settings_file = self.root / "audit.json"

    def scores(self, task: Task) -> Path:
        """Where the rows of ``task`` are."""
        return self.root / "scores" / f"{task.slug}.parquet"

    def marker_file(self, task: Task) -> Path:
        """Where the marker of ``task`` is."""
        return self.root / "markers" / f"{task.slug}.json"

    def settings(self) -> dict[str, Any]:
        """What ``audit.json`` holds: ``config``, ``deciding``, ``config_hash``, ``tasks``, ``versions``.

        Raises:
            SettingsError: there is no such file, or it cannot be read.
        """
        try:
            values = json.loads(self.settings_file.read_text(encoding="utf-8"))
            if not isinstance(values, dict) or not isinstance(values.get("tasks"), list):
                raise ValueError("it holds something else")
        except FileNotFoundError:
            known = what_it_is(self.root) or "it has no audit.json; name the --out folder of 'memsieve audit score'"
            raise SettingsError(f"'{self.root}' is not an audit: {known}") from None
        except ValueError as error:
            raise SettingsError(f"'{self.settings_file}' cannot be read: {error}") from error
        return values

    def tasks(self) -> list[Task]:
        """The tasks of the audit, in order."""
        return [Task(**task) for task in self.settings()["tasks"]]

    def write_settings(self, values: dict[str, Any]) -> None:
        """Write ``audit.json`` and make the folders."""
        for name in ("scores", "markers"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        write_json(self.settings_file, values)

    def wait_for_settings(self, wanted: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until rank 0 has written the settings whose hash is ``wanted``.

        Raises:
            SettingsError: it did not within ``seconds``.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.settings_file.is_file() and self.settings().get("config_hash") == wanted:
                return
            time.sleep(0.2)
        raise SettingsError(
            f"rank 0 wrote no matching '{self.settings_file}' within {seconds:.0f} s; --out must be a folder that all "
            "ranks share"
        )

    def read_marker(self, task: Task) -> Marker | None:
        """The marker of ``task``; None where there is none that can be read."""
        try:
            values = json.loads(self.marker_file(task).read_text(encoding="utf-8"))
            return Marker(**values)
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write_marker(self, task: Task, marker: Marker) -> None:
        """Write the marker: from then on the task is done."""
        write_json(self.marker_file(task), asdict(marker))

    @contextmanager
    def lock(self, rank: int = 0) -> Iterator[None]:
        """Hold this rank's place in the folder; the system gives it back when the process ends, however it ends.

        Raises:
            SettingsError: another audit is at work here.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / f".lock-{rank}"
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                owner = file.read(200).strip() or "another process"
                raise SettingsError(
                    f"another audit is at work in '{self.root}' ({owner}); wait for it, stop it, or name another --out"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield
