"""Folders that a test may change, and a hub's cache of them."""

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


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Lays a folder out as the hub's cache does: refs/main, snapshots/COMMIT, files as links to blobs."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

    def put(name: str, folder: Path) -> None:
        home = cache / f"models--{name.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(COMMIT)
        (home / "blobs").mkdir()
        for number, file in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
            blob = home / "blobs" / f"{number:040x}"
            shutil.copy(file, blob)
            link = home / "snapshots" / COMMIT / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)

    return put
