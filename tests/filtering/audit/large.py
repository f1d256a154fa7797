"""A large audit, written by columns, and what memory its keep-list, its groups and its summary take.

python -m tests.filtering.audit.large RUN select|groups|report
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.folder import AuditFolder, Marker
from memsieve.filtering.audit.groups import Alike, group_audit
from memsieve.filtering.audit.keep_list_files import write_selection
from memsieve.filtering.audit.records import MEASURES, SCORES_SCHEMA
from memsieve.filtering.audit.select import Rule, select_rows
from memsieve.filtering.audit.summary import summarise
from tests.filtering.audit.written import DECIDING

__all__ = ["write_large_audit"]

TIMESTEPS = (10, 30, 50, 80)


def write_large_audit(root: Path, rows: int, shard: int = 100_000) -> Path:
    """An audit of ``rows`` rows in shards of ``shard``; a third of the rows repeat an image. What is there is left
    as it is."""
    folder, deciding = AuditFolder(root), DECIDING | {"draws": len(TIMESTEPS)}
    config = AuditConfig.model_validate({"data": {"path": str(root / "gone.tar")}}).model_dump(mode="json")
    names = [{"number": i, "name": str(root / f"{i}.tar"), "start": 0, "stop": 0} for i in range(rows // shard)]
    settings = {"config": config, "deciding": deciding, "config_hash": "c", "tasks": names, "versions": {}}
    folder.write_settings(settings)
    for task in folder.tasks():
        if folder.read_marker(task) is not None:
            continue
        rng = np.random.default_rng([0, task.number])
        images = rng.integers(0, rows, shard)
        pq.write_table(_columns(f"{task.number}.tar", images, rng), folder.scores(task), row_group_size=16_384)
        size = folder.scores(task).stat().st_size
        marker = Marker(
            task=task.name, identity={}, config_hash="c", model_hash=None, rows=shard, scored=shard, failed=0,
            statuses={"ok": shard}, truncated=False, parquet_bytes=size, seconds=1.0,
        )  # fmt: skip
        folder.write_marker(task, marker)
    return root


def _columns(shard: str, images: Any, rng: np.random.Generator) -> pa.Table:
    count, draws = len(images), len(TIMESTEPS)
    offsets = pa.array(np.arange(0, count * draws + 1, draws, dtype=np.int32))
    columns: dict[str, Any] = {name: pa.nulls(count) for name in SCORES_SCHEMA.names}
    columns |= {"shard": [shard] * count, "index": np.arange(count), "part": np.zeros(count, np.int64)}
    columns |= {"status": ["ok"] * count, "key": [f"{i:09d}" for i in range(count)]}
    columns["sha256"] = [f"{i * 2654435761 % 2**64:016x}" * 4 for i in images.tolist()]
    columns["phash"] = [f"{i * 11400714819323198485 % 2**64:016x}" for i in images.tolist()]
    columns["caption"] = [f"a picture of {i}" for i in images.tolist()]
    columns["caption_hash"] = [f"{i:032x}" for i in images.tolist()]
    columns["n_draws"] = np.full(count, draws)
    columns["timesteps"] = pa.ListArray.from_arrays(offsets, pa.array(np.tile(TIMESTEPS, count).astype(np.int32)))
    for name in MEASURES:
        values = rng.lognormal(size=(count, draws)).astype(np.float32)
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))
        columns |= {f"{name}_mean": values.mean(1), f"{name}_se": values.std(1) / draws**0.5}
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in SCORES_SCHEMA]
    return pa.table(arrays, schema=SCORES_SCHEMA)


def main() -> None:
    """Do it, and print the most memory that this process held beyond what it held before, in bytes."""
    run, what = Path(sys.argv[1]), sys.argv[2]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if what == "select":
        with select_rows(run, Rule(drop_fraction=0.01, dedup="phash")) as selection:
            write_selection(selection, run / "keep.parquet")
    elif what == "groups":
        group_audit(run, run / "groups.parquet", Alike("caption"))
    else:
        summarise(run)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


if __name__ == "__main__":
    main()
