"""The audit's commands one after the other, by the shipped configs too, and what other programs read of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from memsieve.filtering.audit.records import SCORES_SCHEMA
from tests.memsieve.auditing import run
from tests.train.conftest import write_shards

ROOT = Path(__file__).parents[4]


def test_exit_codes_and_the_chain_of_commands(audited: Path, tmp_path: Path) -> None:
    assert run("status", audited).exit_code == 0
    found = json.loads(run("status", audited, "--json").stdout)
    assert found["complete"] and found["rows"] == 21
    keep = tmp_path / "keep.parquet"
    result = run("select", audited, "--drop-fraction", "0.07", "--out", keep, "--out", tmp_path / "keep.txt")
    assert result.exit_code == 0 and len((tmp_path / "keep.txt").read_text().splitlines()) == 14, result.output
    assert run("apply", keep, "--out", tmp_path / "clean").exit_code == 0
    assert json.loads((tmp_path / "clean" / "manifest.json").read_text())["rejected"] == {"score": 6, "no_image": 1}
    assert run("report", audited).exit_code == 0
    shard = tmp_path / "data" / "00000.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    assert run("status", audited).exit_code == 1, "stale"
    again = run("score", "--data", tmp_path / "data", "--out", tmp_path / "data-only", "--data-only")
    assert again.exit_code == 3, "done, but truncated"
    assert run("status", tmp_path / "data-only").exit_code == 3
    assert run("report", tmp_path / "data-only").exit_code == 3


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "audit").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_say_how_they_run_and_run(file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """By the launch command of their header, on a small set in the place of the whole one."""
    head = file.read_text().split("output:")[0]
    assert all(word in head for word in ("Data:", "Launch:", "Hardware:", "Duration:", "Expected:", "Then:"))
    (launch,) = re.findall(r"# Launch: +memsieve audit (score --config \S+)", head)
    (then,) = re.findall(r"memsieve audit select (\S+ --dedup --out \S+)", head) or [None]
    (data,) = re.findall(r"# Data: +memsieve data openmoji (\S+) --size 32", head)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_shards(tmp_path / data / "train", 10, per_shard=8, copies=2)
    result = run(*launch.split())
    assert result.exit_code == 0, result.output
    out = yaml.safe_load(file.read_text())["output"]
    assert json.loads(run("status", out, "--json").stdout)["rows"] == 12
    if then is not None:
        assert run("select", *then.split()).exit_code == 0 and Path("keep.parquet").is_file()


def test_scores_open_without_memsieve(audited: Path, tmp_path: Path) -> None:
    """By their folder in pandas and datasets, and by the guide's query where DuckDB is installed."""
    import datasets
    import pandas

    frame = pandas.read_parquet(audited / "scores")
    assert list(frame.columns) == SCORES_SCHEMA.names and len(frame) == 21
    files = [str(file) for file in (audited / "scores").glob("*.parquet")]
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.column_names == SCORES_SCHEMA.names and len(rows) == 21
    guide = (ROOT / "docs" / "auditing.md").read_text()
    marked = r"<!-- executed by tests/memsieve/cli/audit/test_commands.py -->\n```sql\n(.*?)```"
    (query,) = re.findall(marked, guide, re.DOTALL)
    duckdb = pytest.importorskip("duckdb")
    base = tmp_path / "base" / "scores"
    base.mkdir(parents=True)
    for file in map(Path, files):  # a base that fits 'pair 0' a quarter as well, and the others as the tuned one does
        changed = [
            row | {"loss_mean": row["loss_mean"] and row["loss_mean"] * (4 if row["caption"] == "pair 0" else 1)}
            for row in pq.read_table(file).to_pylist()
        ]
        pq.write_table(pa.Table.from_pylist(changed, schema=SCORES_SCHEMA), base / file.name)
    query = query.replace("runs/tuned", str(audited)).replace("runs/base", str(tmp_path / "base"))
    found = duckdb.sql(query).fetchall()
    assert len(found) == 6 and found[0] == ("pair 0", 6, 0.75) and {row[2] for row in found[1:]} == {0.0}
