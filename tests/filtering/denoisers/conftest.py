"""A folder of each family's tiny pipeline, written once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_models import tiny_family


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("families") / name
            tiny_family(name).save_pretrained(made[name], safe_serialization=True)
        return made[name]

    return folder


@pytest.fixture
def copied(family_folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a family's folder that a test may change."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(family_folder(name), tmp_path / name))

    return copy
