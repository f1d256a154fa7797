"""A tiny random model, real shards, and audits of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.score import Callbacks, Outcome, score_shards
from tests.train.conftest import picture, save_tiny_model, write_shards

Audit = Callable[..., Outcome]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def make_shards() -> Callable[..., Path]:
    return write_shards


@pytest.fixture
def png() -> Callable[[int], bytes]:
    return picture


@pytest.fixture
def audit(tiny_model: Path) -> Audit:
    """Audit ``shards`` into ``out``; further names are settings, callbacks, and options of ``score_shards``."""

    def run(shards: Path | str, out: Path, model: bool = True, **more: Any) -> Outcome:
        data = {"path": str(shards), **more.pop("data", {})}
        names = set(AuditConfig.model_fields) & more.keys()
        raw = {"batch_size": 4, "model": str(tiny_model) if model else None, "data": data}
        config = AuditConfig.model_validate(raw | {name: more.pop(name) for name in names})
        told = {name: more.pop(name) for name in ("begin", "advance", "finished") if name in more}
        return score_shards(config, out, callbacks=Callbacks(**told), **more)

    return run


@pytest.fixture
def read_rows() -> Callable[[Path], pa.Table]:
    """All rows of an audit, ordered by shard and index."""

    def read(out: Path) -> pa.Table:
        files = sorted((out / "scores").glob("*.parquet"))
        return pa.concat_tables(pq.read_table(file) for file in files).sort_by(
            [("shard", "ascending"), ("index", "ascending")]
        )

    return read


@pytest.fixture
def folder(make_shards: Callable[..., Path], tmp_path: Path) -> Path:
    """Three shards of 8, one pair three times over."""
    return make_shards(tmp_path / "data", 22, per_shard=8, copies=2)


@pytest.fixture
def mixed(make_shards: Callable[..., Path], tmp_path: Path) -> Path:
    """Four shards of 8: 24 pairs, the first of them 8 more times, and one sample without a caption."""
    make_shards(tmp_path / "data", 24, per_shard=8, copies=8)
    with tarfile.open(tmp_path / "data" / "00001.tar", "a") as tar:
        info = tarfile.TarInfo("lonely.png")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    return tmp_path / "data"
