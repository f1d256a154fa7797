"""Keep-lists for tests: made of an audit, with scores that a test knows, and what the shards made of one hold."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.audit.keep_list_files import write_selection
from memsieve.filtering.audit.records import SCORES_SCHEMA
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.select import Rule, select_rows

Audit = Callable[..., Outcome]


def members(path: Path) -> dict[str, str]:
    """sha256 of every member of a tar, by name, in order."""
    with tarfile.open(path) as tar:
        return {info.name: hashlib.sha256(tar.extractfile(info).read()).hexdigest() for info in tar}  # type: ignore[union-attr]


def kept_list(audit: Audit, source: Path | str, tmp_path: Path, **options: Any) -> Path:
    audit(source, tmp_path / "run", model=False, **options)
    with select_rows(tmp_path / "run", Rule(dedup="sha256")) as selection:
        write_selection(selection, tmp_path / "keep.parquet")
    return tmp_path / "keep.parquet"


def rescore(out: Path, change: Callable[[dict[str, Any], int], dict[str, Any]]) -> None:
    """Give an audit's rows other numbers, where a test needs to know what is right."""
    for file in (out / "scores").glob("*.parquet"):
        marker = out / "markers" / f"{file.stem}.json"
        table = pq.read_table(file)
        rows = [change(row, i) if row["n_draws"] else row for i, row in enumerate(table.to_pylist())]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCORES_SCHEMA), file)
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"parquet_bytes": file.stat().st_size}))
