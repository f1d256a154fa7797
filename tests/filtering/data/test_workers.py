"""Loader workers end with their rank, not with a signal that is meant for it."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import webdataset as wds
from PIL import Image

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.loader import WindowLoader
from memsieve.filtering.data.workers import keep_until_parent_ends, stops_held


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    for shard in range(2):
        with wds.TarWriter(str(tmp_path / f"{shard}.tar")) as writer:
            for number in range(8):
                stream = io.BytesIO()
                Image.new("RGB", (8, 8), (number, shard, 7)).save(stream, "PNG")
                writer.write({"__key__": f"{shard}-{number}", "png": stream.getvalue(), "txt": "a caption"})
    return DataConfig(path=str(tmp_path), resolution=8, held_out_fraction=0.0, streams=2)


def test_workers_outlive_the_signals_of_launchers_and_schedulers(data: DataConfig) -> None:
    def keys(workers: int, interrupted: bool) -> list[str]:
        windows = iter(WindowLoader(data.model_copy(update={"workers": workers}), 4))
        found = []
        for _ in range(12):
            found += [row.key for row in next(windows).rows if row is not None]
            pids = [str(process.pid) for process in multiprocessing.active_children()]
            if interrupted:
                assert len(pids) == workers
                for name in ("INT", "TERM", "HUP"):  # from another process than their parent
                    subprocess.run(["kill", f"-{name}", *pids], check=True)
        return found

    assert keys(2, interrupted=True) == keys(0, interrupted=False)


def signalled(worker: int) -> None:
    """A worker that is asked to stop before it can heed or ignore it."""
    for name in ("INT", "TERM", "HUP"):
        subprocess.run(["kill", f"-{name}", str(os.getpid())], check=True)
    keep_until_parent_ends(worker)


def test_workers_outlive_signals_that_come_while_they_start(data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memsieve.filtering.data.turns.keep_until_parent_ends", signalled)
    windows = iter(WindowLoader(data.model_copy(update={"workers": 2}), 4))
    assert len([row for _ in range(4) for row in next(windows).rows if row is not None]) == 16
    assert len(multiprocessing.active_children()) == 2


def test_a_request_to_stop_waits_until_workers_have_started() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with stops_held():
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            assert not heard
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_their_parent_can_still_end_them(data: DataConfig) -> None:
    windows = iter(WindowLoader(data.model_copy(update={"workers": 2}), 4))
    next(windows)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == 0
