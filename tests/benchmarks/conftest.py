"""A tiny random pipeline in a folder: it copies nothing, and runs in milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_models import tiny_family


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_family("sd").save_pretrained(folder, safe_serialization=True)
    return folder
