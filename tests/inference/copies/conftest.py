"""Shards of pictures, and an index over them by each similarity."""

from __future__ import annotations

from pathlib import Path

import pytest

from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji
from memsieve.inference.copies.index import TrainingIndex
from memsieve.inference.copies.index_build import build_index
from tests.inference.copies.pictures import write_data


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=["tiled_l2", "pixel_l2", "phash"])
def index(request: pytest.FixtureRequest, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingIndex:
    out = tmp_path_factory.mktemp("index") / request.param
    return build_index(
        str(shards / "train"), out, similarity=request.param, held_out=str(shards / "held"), chunk=4, progress=False
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe") / "data"
    build_openmoji(folder, DatasetPlan(size=32, plant=["2x3"], limit=240))
    return folder
