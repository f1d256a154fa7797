"""Audits on a Ray cluster: what a worker does with a task, and what is said where there is no Ray.

Real clusters, their workers and nodes killed: test_kills.py and test_nodes.py.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.folder import AuditFolder, Marker
from memsieve.filtering.audit.ray_engine import RayCluster, _Actor, _first, run_on_ray
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.work import AuditJob
from memsieve.filtering.settings import SettingsError
from tests.conftest import THREADS
from tests.filtering.identity.test_descriptors import Mean

Audit = Callable[..., Outcome]
Read = Callable[[Path], pa.Table]


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker takes its share of the cores; here that of the other tests, and as before afterwards."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(THREADS))
    yield
    torch.set_num_threads(THREADS)


def emptied(done: Path, out: Path) -> AuditFolder:
    """The folder of an audit that is begun, as the driver leaves it to its workers."""
    shutil.copytree(done, out)
    for file in (*(out / "scores").iterdir(), *(out / "markers").iterdir()):
        file.unlink()
    return AuditFolder(out)


def worker(folder: AuditFolder, **changed: Any) -> Any:
    settings = folder.settings()
    model = settings["deciding"]["model"]
    given = {"config_hash": settings["config_hash"], "model_hash": model["hash"] if model else None} | changed
    return _Actor(str(folder.root), settings["config"], **given)


def test_a_worker_writes_what_this_process_writes(audit: Audit, folder: Path, tmp_path: Path, read_rows: Read) -> None:
    """All that it is told, and what it answers, are plain values: they go from machine to machine."""
    audit(folder, tmp_path / "here", draws=1)
    begun = emptied(tmp_path / "here", tmp_path / "there")
    actor = worker(begun)
    assert actor.ready() == os.getpid()
    for task in begun.tasks():
        said = json.loads(json.dumps(actor.run(json.loads(json.dumps(asdict(task))))))
        assert Marker(**said) == begun.read_marker(task) and said["rows"] == said["scored"] == 8
    assert read_rows(begun.root).equals(read_rows(tmp_path / "here"))


def test_a_worker_without_a_model_looks_at_the_data_alone_and_describes_it(
    audit: Audit, folder: Path, tmp_path: Path, read_rows: Read
) -> None:
    torch.jit.script(Mean()).save(str(tmp_path / "mean.pt"))
    (tmp_path / "mean.json").write_text('{"side": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}')
    audit(folder, tmp_path / "here", model=False, describe=[str(tmp_path / "mean.pt")])
    begun = emptied(tmp_path / "here", tmp_path / "there")
    actor = worker(begun)
    for task in begun.tasks():
        said = actor.run(asdict(task))
        assert said["rows"] == 8 and said["scored"] == 0 and said["model_hash"] is None
    rows = read_rows(begun.root)
    assert rows.equals(read_rows(tmp_path / "here")) and rows["descriptor_mean"].null_count == 0


def test_a_shard_that_cannot_be_fetched_is_an_answer_and_no_end(audit: Audit, folder: Path, tmp_path: Path) -> None:
    audit(folder, tmp_path / "here", model=False)
    begun = emptied(tmp_path / "here", tmp_path / "there")
    first, second, _ = begun.tasks()
    Path(first.name).unlink()
    actor = worker(begun)
    assert f"'{first.name}' cannot be reached" in actor.run(asdict(first)) and begun.read_marker(first) is None
    assert actor.run(asdict(second))["rows"] == 8


def test_a_model_that_is_another_one_on_a_node_is_refused_there(
    audit: Audit, folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    """A path that names different folders on different machines."""
    audit(folder / "00000.tar", tmp_path / "here", draws=1)
    begun = emptied(tmp_path / "here", tmp_path / "there")
    with pytest.raises(SettingsError, match=rf"the model at '{tiny_model}' is another one on this node than on the dr"):
        worker(begun, model_hash="another")


@pytest.mark.parametrize(("share", "threads"), [("2", 2), (None, 1)])
def test_a_worker_takes_the_share_of_cores_that_ray_gives_it(
    audit: Audit, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: str | None, threads: int
) -> None:
    audit(folder / "00000.tar", tmp_path / "here", model=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if share is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", share)
    torch.set_num_threads(3)
    worker(AuditFolder(tmp_path / "here"))
    assert torch.get_num_threads() == threads


def test_without_ray_the_package_is_named_and_nothing_is_scored(
    audit: Audit, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(SettingsError, match=r"--engine ray needs Ray: pip install .*\[ray\]'"):
        audit(folder, tmp_path / "out", model=False, ray=RayCluster())
    assert not list((tmp_path / "out" / "scores").iterdir())


def test_where_nothing_is_to_be_done_no_cluster_is_started(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="asks Ray itself whether a cluster was started")
    config = AuditConfig.model_validate({"data": {"path": "shards"}})
    job = AuditJob(AuditFolder(tmp_path), config, config_hash="c", model_hash=None)
    assert list(run_on_ray(job, [], RayCluster())) == [] and not ray.is_initialized()


def test_of_what_a_worker_died_of_the_first_line_is_said() -> None:
    assert _first(ValueError("  it was killed\nTraceback ...")) == "it was killed"
    assert _first(KeyError()) == "KeyError"
