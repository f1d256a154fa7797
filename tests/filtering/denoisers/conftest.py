"""A family's folder that a test may change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def copied(family_folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a family's folder that a test may change."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(family_folder(name), tmp_path / name))

    return copy
