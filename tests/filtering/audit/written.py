"""Audits written by hand, so that a test knows every number in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.folder import AuditFolder, Marker
from memsieve.filtering.audit.records import SCORES_SCHEMA, RowWriter
from memsieve.filtering.audit.tasks import Task

MODEL: Final = {"hash": "m" * 64, "parts": {"vae": "v"}, "num_train_timesteps": 100, "latent_shape": [4, 8, 8]}
DECIDING: Final = {"model": MODEL, "seed": 3, "strata": 2, "draws": 2, "data": {"resolution": 16}}


def sha256(name: str) -> str:
    """64 digits that begin with ``name``, spelt in hex."""
    return name.encode().hex().ljust(64, "0")


def row(name: str, values: list[float | None] | None = None, **more: Any) -> dict[str, Any]:
    """A usable row of the image ``name``; ``values`` are its magnitude, and its loss, at both draws."""
    found: dict[str, Any] = dict.fromkeys(SCORES_SCHEMA.names)
    found |= {"shard": "gone.tar", "index": 0, "key": name, "part": 0, "status": "ok", "sha256": sha256(name)}
    found |= {"caption": f"a {name}", "caption_hash": f"hash of a {name}", "phash": "0f" * 8, "n_draws": 0}
    if values is not None:
        found |= {"timesteps": [10, 60], "n_draws": 2, "loss_gap": [0.0, 0.0]}
        found |= {"magnitude": list(values), "loss": list(values)}
    return found | more


def write_audit(root: Path, rows: list[dict[str, Any]], deciding: dict[str, Any] | None = None) -> Path:
    """A finished audit of one shard, ``gone.tar``, which is not there any more."""
    folder, task = AuditFolder(root), Task(0, str(root / "gone.tar"))
    config = AuditConfig.model_validate({"data": {"path": task.name}}).model_dump(mode="json")
    tasks = [{"number": 0, "name": task.name, "start": 0, "stop": 0}]
    settings = {"config": config, "deciding": deciding or DECIDING, "config_hash": "c", "tasks": tasks, "versions": {}}
    folder.write_settings(settings)
    with RowWriter(folder.scores(task), {}) as writer:
        writer.add([one | {"index": index} for index, one in enumerate(rows)])
    statuses = [str(one["status"]) for one in rows]
    marker = Marker(
        task=task.name, identity={}, config_hash="c", model_hash=None, rows=len(rows),
        scored=sum(one["n_draws"] > 0 for one in rows), failed=sum(one != "ok" for one in statuses),
        statuses={one: statuses.count(one) for one in statuses}, truncated=False,
        parquet_bytes=folder.scores(task).stat().st_size, seconds=1.0,
    )  # fmt: skip
    folder.write_marker(task, marker)
    return root
