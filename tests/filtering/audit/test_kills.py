"""Nothing is lost: killed anywhere, out of disk, on several ranks, on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.status import audit_status

Audit = Callable[..., Outcome]
Read = Callable[[Path], pa.Table]
ROOT = Path(__file__).parents[3]


def in_child(work: Callable[[], Any]) -> int:
    """Start ``work`` in a process of its own; its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def kill_often(audit: Audit, data: Path, out: Path, kills: int, seed: int) -> set[int]:
    """Start the same audit again and again and kill it, until ``kills`` kills struck one that was not complete; then
    let it end. A kill comes at a random moment of the start, or of the work on one of the next shards. Returned are the
    numbers of finished shards at which the kills struck."""
    rng = np.random.default_rng(seed)
    shards = len(list(data.glob("*.tar")))

    def done() -> int:
        return len(list((out / "markers").glob("*.json")))

    struck: list[int] = []
    while len(struck) < kills:
        before, pause = done(), 0.0
        wanted = before + (1, 0, 2, 3)[len(struck) % 4]  # so that they strike at different points
        pid = in_child(lambda: audit(data, out, draws=1))
        started = time.monotonic()
        while done() < wanted:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended by itself"
            time.sleep(0.002)
        if wanted > before:
            pause = (time.monotonic() - started) / (wanted - before)
        time.sleep(float(rng.uniform(0.0, 0.5 * pause if pause else 0.05)))
        os.kill(pid, signal.SIGKILL)
        _, code = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(code), "it was killed at work"
        assert done() < shards
        struck.append(done())
    _, code = os.waitpid(in_child(lambda: audit(data, out, draws=1)), 0)
    assert code == 0
    return set(struck)


def check_kills(audit: Audit, data: Path, tmp_path: Path, read_rows: Read, kills: int) -> None:
    states = kill_often(audit, data, tmp_path / "killed", kills, seed=kills)
    audit(data, tmp_path / "whole", draws=1)
    assert audit_status(tmp_path / "killed").complete
    assert read_rows(tmp_path / "killed").equals(read_rows(tmp_path / "whole"))
    assert not list((tmp_path / "killed").rglob(".*.tmp"))
    assert len(states) > kills // 2, "the kills struck at different points of the work"


def test_killed_three_times(audit: Audit, make_shards: Callable[..., Path], tmp_path: Path, read_rows: Read) -> None:
    data = make_shards(tmp_path / "data", 40, per_shard=2)
    check_kills(audit, data, tmp_path, read_rows, kills=3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_thirty_times(audit: Audit, make_shards: Callable[..., Path], tmp_path: Path, read_rows: Read) -> None:
    data = make_shards(tmp_path / "data", 480, per_shard=3)
    check_kills(audit, data, tmp_path, read_rows, kills=30)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_costs_the_shard_at_hand(
    audit: Audit, make_shards: Callable[..., Path], tmp_path: Path, read_rows: Read, small_disk: Path
) -> None:
    data = make_shards(tmp_path / "data", 24, per_shard=2)
    with pytest.raises(OSError, match=r"(?i)no space left|errno 28"):
        audit(data, small_disk / "run", draws=1)
    done = audit_status(small_disk / "run").counts["done"]
    assert 1 <= done < 12 and not list((small_disk / "run").rglob(".*.tmp"))
    with pytest.raises(OSError, match=r"(?i)no space left|errno 28"):
        audit(data, small_disk / "run", draws=1)
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert len(audit(data, small_disk / "run", draws=1).done) == 12 - done
    audit(data, tmp_path / "whole", draws=1)
    assert read_rows(small_disk / "run").equals(read_rows(tmp_path / "whole"))


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def score_command(data: Path, out: Path, model: Path, *more: str) -> list[str]:
    return ["audit", "score", "--data", str(data), "--out", str(out), "--model", str(model), "--draws", "2",
            "--batch", "4", *more]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_ranks_are_one_process(
    audit: Audit, make_shards: Callable[..., Path], tmp_path: Path, read_rows: Read, tiny_model: Path, launcher: str
) -> None:
    data = make_shards(tmp_path / "data", 40, per_shard=8)
    launch = {
        "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"],
        "accelerate": ["-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu_2ranks.yaml"],
    }[launcher]  # fmt: skip
    command = [sys.executable, *launch, "-m", "memsieve", *score_command(data, tmp_path / "two", tiny_model)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "two" / ".lock-1").is_file(), "there was a second rank"
    audit(data, tmp_path / "one", draws=2)
    assert len(read_rows(tmp_path / "two")) == 40
    assert read_rows(tmp_path / "two").equals(read_rows(tmp_path / "one"))


@pytest.mark.slow
def test_two_ray_workers_are_one_process_though_one_is_killed(
    audit: Audit, make_shards: Callable[..., Path], tmp_path: Path, read_rows: Read, tiny_model: Path
) -> None:
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    data = make_shards(tmp_path / "data", 600, per_shard=10)
    command = [sys.executable, "-m", "memsieve", *score_command(data, tmp_path / "ray", tiny_model)]
    log = (tmp_path / "log").open("w+")
    driver = subprocess.Popen(
        [*command, "--engine", "ray", "--workers", "2"], cwd=ROOT, env=environment(), stdout=log, stderr=log
    )
    markers = tmp_path / "ray" / "markers"
    try:
        end = time.monotonic() + 200
        while len(list(markers.glob("*.json"))) < 3 and time.monotonic() < end and driver.poll() is None:
            time.sleep(0.1)
        workers = [p for p in psutil.Process(driver.pid).children(recursive=True) if "_Actor" in " ".join(p.cmdline())]
        assert len(workers) == 2, log.seek(0) or log.read()
        workers[0].send_signal(signal.SIGKILL)
        assert len(list(markers.glob("*.json"))) < 60, "it was killed at work"
        assert driver.wait(timeout=240) == 0, log.seek(0) or log.read()
    finally:
        driver.terminate()
        driver.wait(timeout=60)
    audit(data, tmp_path / "one", draws=2)
    assert read_rows(tmp_path / "ray").equals(read_rows(tmp_path / "one"))
    hashes = [json.loads((tmp_path / name / "audit.json").read_text())["config_hash"] for name in ("ray", "one")]
    assert hashes[0] == hashes[1]
