"""The folder of an audit: one at a time, its marker last."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from memsieve.filtering.audit.folder import AuditFolder
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.settings import SettingsError

Audit = Callable[..., Outcome]


def test_a_second_audit_of_one_folder_is_refused(audit: Audit, folder: Path, tmp_path: Path) -> None:
    with AuditFolder(tmp_path / "out").lock(), pytest.raises(SettingsError, match=f"process {os.getpid()} on"):
        audit(folder, tmp_path / "out", model=False)
    assert len(audit(folder, tmp_path / "out", model=False).done) == 3
