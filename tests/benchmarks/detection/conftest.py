"""A dataset with planted pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.planted_data import planted_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_data(tmp_path_factory.mktemp("detection") / "data", [(2, 6), (1, 3)], ordinary=12, held_out=100)
