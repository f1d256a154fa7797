"""A Ray cluster of several nodes, real raylets on this machine: a node that dies costs its shards a second attempt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.status import audit_status

Audit = Callable[..., Outcome]
Read = Callable[[Path], pa.Table]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[Any]]]:
    """A head without cores of its own, and two nodes of one core each: every actor is on a node that can die."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Raylets hand their environment to the workers, which import memsieve from here.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 * 2**20},
    )
    try:
        nodes = [found.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
        found.wait_for_nodes()
        yield found, nodes
    finally:
        found.shutdown()


def actors_of(node: Any) -> list[Any]:
    """The processes of our actors on a node."""
    psutil = pytest.importorskip("psutil")
    (raylet,) = node.all_processes["raylet"]
    children = psutil.Process(raylet.process.pid).children(recursive=True)
    return [process for process in children if "_Actor" in " ".join(process.cmdline())]


@pytest.mark.slow
def test_a_lost_node_costs_only_its_shards(
    audit: Audit,
    make_shards: Callable[..., Path],
    tmp_path: Path,
    read_rows: Read,
    tiny_model: Path,
    cluster: tuple[Any, list[Any]],
) -> None:
    ray, nodes = cluster
    data = make_shards(tmp_path / "data", 600, per_shard=10)
    out = tmp_path / "ray"
    words = ["audit", "score", "--data", data, "--out", out, "--model", tiny_model, "--draws", 2, "--batch", 4]
    words += ["--engine", "ray", "--ray-address", ray.address, "--workers", 2]
    log = (tmp_path / "log").open("w+")
    driver = subprocess.Popen(
        [sys.executable, "-m", "memsieve", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=log,
    )

    def done() -> int:
        return len(list((out / "markers").glob("*.json")))

    def said() -> str:
        log.seek(0)
        return log.read()[-3000:]

    try:
        end = time.monotonic() + 200
        while done() < 3 and time.monotonic() < end and driver.poll() is None:
            time.sleep(0.05)
        assert driver.poll() is None and 3 <= done() < 50, said()
        node = next(node for node in nodes if actors_of(node))
        ray.remove_node(node, allow_graceful=False)  # the raylet and its workers are killed
        before = done()
        assert before < 60, "it was lost at work"
        assert driver.wait(timeout=240) == 0, said()
    finally:
        if driver.poll() is None:
            driver.send_signal(signal.SIGTERM)
            driver.wait(timeout=60)
    assert "60 shards done now (600 samples, 0 unusable), 0 before" in " ".join(said().split())
    status = audit_status(out)
    assert status.complete and status.rows == 600
    audit(data, tmp_path / "one", draws=2)
    assert read_rows(out).equals(read_rows(tmp_path / "one"))
