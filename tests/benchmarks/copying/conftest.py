"""A tiny stream with one pair of each kind of repetition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.copying.data import Planted, Stream, build
from tests.filtering.audit.test_group_check import Coarse

TINY = Stream(
    "tiny",
    planted=(
        Planted("exact", 20, 1),
        *[Planted(kind, 30, 1) for kind in ("family", "template", "paraphrase")],
    ),
    ordinary=12,
    rare=3,
    side=64,
    shards=2,
    limit=560,
)  # fmt: skip


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("streams") / "tiny"
    build(out, TINY, seed=1)
    return out, pq.read_table(out / "truth.parquet").to_pylist()


@pytest.fixture
def coarse(tmp_path: Path) -> str:
    """The file of a descriptor that needs no package."""
    file = tmp_path / "coarse.pt"
    torch.jit.script(Coarse()).save(str(file))
    file.with_suffix(".json").write_text(json.dumps({"side": 48, "mean": [0, 0, 0], "std": [1, 1, 1]}))
    return str(file)
