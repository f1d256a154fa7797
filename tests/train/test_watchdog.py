"""Nobody waits in silence: a rank that fails, is killed, lags or differs is named by the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import yaml

from memsieve.train.config import RunConfig
from memsieve.train.watchdog import RankFailure, Watch

pytestmark = pytest.mark.timeout(600)
MakeConfig = Callable[..., RunConfig]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def pair() -> Iterator[tuple[Watch, Watch]]:
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)
    watches = tuple(
        Watch(rank, 2, timeout=4.0, store=dist.TCPStore("127.0.0.1", store.port, is_master=False)) for rank in range(2)
    )
    yield watches  # type: ignore[misc]
    for watch in watches:
        watch.close()


def test_a_failure_is_told_to_the_others(pair: tuple[Watch, Watch]) -> None:
    pair[1].enter("reading data", 7)
    with pytest.raises(OSError, match="disk"), pair[1].guard():
        raise OSError("the disk is gone")
    pair[0].enter("training", 7)
    with pytest.raises(RankFailure) as failure, pair[0].guard():
        raise RuntimeError("[gloo] Connection closed by peer")
    said = str(failure.value)
    assert "rank 1 failed at step 7, reading data: OSError: the disk is gone" in said
    assert "Rank 0 of 2 ends at step 7, training" in said


def test_a_rank_that_went_quiet_is_named(pair: tuple[Watch, Watch]) -> None:
    pair[1].enter("saving", 3)
    time.sleep(2 * pair[1].beat)
    pair[1]._over.set()  # as a killed process: no more beats, no last word
    with (
        pytest.raises(RankFailure, match=r"rank 1 has ended or does not answer; it was last seen at step 3, saving"),
        pair[0].guard(),
    ):
        raise RuntimeError("Timed out waiting 4000ms for recv operation to complete")


def test_a_neighbour_that_is_gone_ends_a_rank_that_waits(pair: tuple[Watch, Watch]) -> None:
    pair[1]._over.set()
    deadline = time.monotonic() + 10
    while (reason := pair[0]._reason()) is None:
        assert time.monotonic() < deadline
        pair[0].enter("training", 1)
        time.sleep(0.2)
    assert "rank 1 has ended or does not answer" in reason


def test_a_rank_that_lags_is_named(pair: tuple[Watch, Watch]) -> None:
    pair[1].enter("reading data", 4)
    pair[0].enter("training", 5)
    time.sleep(2 * pair[0].beat)
    with (
        pytest.raises(RankFailure, match=r"no rank reports a failure; rank 1 is at step 4, reading data"),
        pair[0].guard(),
    ):
        raise RuntimeError("Timed out waiting 4000ms for recv operation to complete")


@pytest.mark.slow
def test_reading_for_long_is_no_standstill_on_any_rank(pair: tuple[Watch, Watch]) -> None:
    """A resume passes rows for longer than the timeout: neither who reads ends, nor who waits for it; but both do once
    nothing is read any more."""
    read = [0]
    pair[1].show(lambda: read[0])
    for watch in pair:
        watch.enter("reading data", 3)
    started = time.monotonic()
    while time.monotonic() - started < 2.2 * pair[0].timeout:
        read[0] += 1
        assert [watch._reason() for watch in pair] == [None, None]
        time.sleep(0.1)
    stopped = time.monotonic()
    while (reason := pair[0]._reason()) is None:
        assert time.monotonic() - stopped < 3 * pair[0].timeout
        time.sleep(0.1)
    assert time.monotonic() - stopped > 0.5 * pair[0].timeout
    assert "waited 4 s (train.timeout); no rank reports a failure; rank 1 is at step 3, reading data" in reason


def test_ranks_meet_however_long_one_takes(pair: tuple[Watch, Watch]) -> None:
    met: list[int] = []
    thread = threading.Thread(target=lambda: (pair[0].meet(), met.append(0)))
    thread.start()
    time.sleep(1.0)
    assert met == []
    pair[1].meet()
    thread.join(10)
    assert met == [0]


def test_a_meeting_ends_where_another_rank_fails(pair: tuple[Watch, Watch]) -> None:
    with pytest.raises(OSError, match="disk"), pair[1].guard():
        raise OSError("the disk is gone")
    with pytest.raises(RankFailure, match="rank 1 failed at step 0, starting: OSError: the disk is gone"):
        pair[0].meet()


def test_errors_that_all_ranks_raise_are_passed_on(pair: tuple[Watch, Watch]) -> None:
    with pytest.raises(ValueError, match="alike"), pair[0].guard(ValueError):
        raise ValueError("alike")
    assert pair[1]._failed() is None


# -- real runs ------------------------------------------------------------------------------------------------------


def start(paths: list[Path], port: int) -> list[subprocess.Popen[str]]:
    """One process per rank without a launcher that would end the others, as under srun."""
    common = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(paths)),
              "LOCAL_WORLD_SIZE": str(len(paths))}  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-m", "memsieve.train", str(path)],
            cwd=ROOT,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, path in enumerate(paths)
    ]


def written(config: RunConfig, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def said_by(process: subprocess.Popen[str], timeout: float) -> str:
    try:
        _, stderr = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return " ".join(stderr.split())


@pytest.mark.slow
def test_ranks_with_different_settings_are_refused(make_config: MakeConfig, tmp_path: Path, a_port: int) -> None:
    configs = [make_config(train={"seed": 3}), make_config(optimizer={"lr": 5e-4})]
    ranks = start([written(config, tmp_path / f"{i}.yaml") for i, config in enumerate(configs)], a_port)
    said = [said_by(rank, 90) for rank in ranks]
    for rank, text in zip(ranks, said, strict=True):
        assert rank.returncode == 2 and "the settings of rank 1 on" in text and "Traceback" not in text, text


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_named_and_the_run_goes_on(
    make_config: MakeConfig, tmp_path: Path, a_port: int, victim: int, run_ranks: Any
) -> None:
    fixed: dict[str, Any] = {"filter": {"ledger_kept": True}, "checkpoint": {"every": 2}}
    config = make_config("killed", train={"steps": 500, "timeout": 20}, **fixed)
    ranks = start([written(config, tmp_path / "c.yaml")] * 2, a_port)
    deadline = time.monotonic() + 90
    while not (config.output / "checkpoints" / "step-00000004").exists():
        assert time.monotonic() < deadline and all(rank.poll() is None for rank in ranks)
        time.sleep(0.02)
    ranks[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    said = said_by(ranks[1 - victim], 40)
    ranks[victim].communicate()
    assert time.monotonic() - killed < 20 + 10
    assert ranks[1 - victim].returncode == 1 and "Traceback" not in said
    assert f"rank {victim} has ended or does not answer; it was last seen at step" in said or (
        victim == 0 and "or rank 0) is gone" in said
    ), said
    assert f"Rank {1 - victim} of 2 ends at step" in said

    saved = sorted((config.output / "checkpoints").glob("step-*"))[-1]
    steps = int(saved.name.removeprefix("step-")) + 2
    resumed = config.model_copy(deep=True)
    resumed.train.steps = steps
    whole = make_config("whole", train={"steps": steps, "timeout": 20}, **fixed)
    jobs = [{"name": "resumed", "config": resumed.model_dump(mode="json")},
            {"name": "whole", "config": whole.model_dump(mode="json")}]  # fmt: skip
    runs = run_ranks("ddp", jobs)
    assert runs.outcomes[0]["resumed"]["started_at"] == steps - 2
    assert (runs.weights("resumed") == runs.weights("whole")).all()
    summaries = [json.loads((c.output / "summary.json").read_text()) for c in (resumed, whole)]
    for name in ("read", "trained", "dropped", "remainder", "groups", "condemned_groups"):
        assert summaries[0][name] == summaries[1][name]


@pytest.mark.slow
def test_a_rank_that_fails_is_named(make_config: MakeConfig, run_ranks: Any) -> None:
    config = make_config()
    job = {"name": "fails", "config": config.model_dump(mode="json"), "twist": "fail_on_rank_1"}
    with pytest.raises(AssertionError) as failure:
        run_ranks("ddp", [job])
    assert "rank 1 failed at step 2, training: OSError: the disk is gone. Rank 0 of 2 ends at" in str(failure.value)
