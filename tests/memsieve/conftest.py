"""An audit that tests of the commands, the page and W&B look at."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memsieve.filtering.audit.records import SCORES_SCHEMA
from tests.memsieve.auditing import HOSTILE, run
from tests.train.conftest import picture, save_tiny_model, write_shards


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def audited(model: Path, tmp_path: Path) -> Path:
    """An audit of two shards with a hostile sample and a planted pair, its scores such that 'pair 0' leads."""
    data = write_shards(tmp_path / "data", 14, per_shard=10, copies=5)
    with tarfile.open(data / "00001.tar", "a") as tar:
        for name, content in (("<b>x.png", picture(99)), ("<b>x.txt", HOSTILE.encode()), (f"{HOSTILE}.txt", b"alone")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    result = run("score", "--data", data, "--out", tmp_path / "run", "--model", model, "--draws", 2)
    assert result.exit_code == 0, result.output
    for file in (tmp_path / "run" / "scores").glob("*.parquet"):
        rows = pq.read_table(file).to_pylist()
        for row in rows:
            if row["caption"] == "pair 0":
                row["magnitude"], row["magnitude_mean"] = [90.0, 92.0], 91.0
        pq.write_table(pa.Table.from_pylist(rows, schema=SCORES_SCHEMA), file)
        marker = tmp_path / "run" / "markers" / f"{file.stem}.json"
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"parquet_bytes": file.stat().st_size}))
    return tmp_path / "run"
