"""A small stream with planted duplicates, built once, and plans that work on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.quality.cell import Plan, Protocol
from benchmarks.quality.data import Spec, build

SPEC = Spec(levels=((6, 2), (12, 2)), hard_pairs=1, hard_repeats=8, rare=6, clean=30, passes=2, shards=8, limit=400)
PROTOCOL = Protocol(steps=4, held_out_max=100, held_out_draws=1, images=1, ordinary=2, sampling_steps=2)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality") / "data" / "seed0"
    build(folder, 0, SPEC)
    return folder


def plan_at(folder: Path, data: Path, results: str = "results") -> Plan:
    (folder / "work").mkdir(exist_ok=True)
    if not (folder / "work" / "data").exists():
        (folder / "work" / "data").symlink_to(data.parent)
    return Plan(folder / "work", folder / results, SPEC, PROTOCOL)


def truth_of(data: Path, part: str) -> list[dict[str, Any]]:
    return [row for row in pq.read_table(data / "truth.parquet").to_pylist() if row["part"] == part]
