"""A run that is asked to stop saves first: by Ctrl-C, a scheduler, a lost terminal, under a launcher and without."""

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

import pytest
import yaml
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig

from memsieve.train.config import RunConfig
from memsieve.train.stop import ECHO, Stop, interruptible

MakeConfig = Callable[..., RunConfig]
ROOT = Path(__file__).parents[2]
TIMEOUT = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"


def signalled(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def test_a_launchers_echo_is_no_second_ctrl_c() -> None:
    with interruptible(launched=True) as stop:
        signalled(signal.SIGINT, signal.SIGINT, signal.SIGTERM)
        assert stop.asked
        stop._at -= 2 * ECHO  # later on a person means it, and a scheduler's SIGTERM still does not
        signalled(signal.SIGTERM, signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt, match="the last checkpoint stands"):
            signalled(signal.SIGINT)


def test_ctrl_c_again_stops_a_single_process_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with interruptible() as stop:
        signalled(signal.SIGINT)
        assert stop.asked and "Ctrl-C again stops at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signalled(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_lost_terminal_asks_for_a_stop_and_nohup_is_heeded() -> None:
    with interruptible() as stop:
        signalled(signal.SIGHUP)
        assert stop.asked
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as stop:
            signalled(signal.SIGHUP)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_launcher_that_would_not_wait_is_named_once_with_what_lets_it_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    assert stop.too_slow(1000.0, 1000.0) is None, "nobody kills a process that was started alone"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.delenv(TIMEOUT, raising=False)
    assert stop.too_slow(2.0, 5.0) is None
    said = stop.too_slow(50.0, 45.0)
    assert said is not None and "30 s after Ctrl-C" in said and stop.too_slow(50.0, 45.0) is None
    name, _, seconds = said.partition("Launch with ")[2].partition(" ")[0].partition("=")
    monkeypatch.setenv(name, seconds)
    assert LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1).shutdown_timeout == int(seconds) > 95
    assert Stop().too_slow(50.0, 45.0) is None


# -- real launchers -------------------------------------------------------------------------------------------------


def launched(config: RunConfig, path: Path, port: int, *options: str, **environment: str) -> subprocess.Popen[str]:
    """Two gloo ranks under ``accelerate launch``, in a session of their own as a scheduler's job is."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file",
               str(ROOT / "configs/accelerate/cpu_2ranks.yaml"), "--main_process_port", str(port),
               "-m", "memsieve.train", str(path), *options]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
                   **environment}  # fmt: skip
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                            text=True, start_new_session=True)  # fmt: skip


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``launched``, waited for until it trains; whatever is left of it ends with the test."""
    running: list[tuple[subprocess.Popen[str], list[int]]] = []

    def start(config: RunConfig, *args: Any, **environment: str) -> subprocess.Popen[str]:
        launcher = launched(config, *args, **environment)
        running.append((launcher, []))
        deadline, metrics = time.monotonic() + 200, config.output / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text()):
            assert time.monotonic() < deadline and launcher.poll() is None, launcher.communicate()[1][-3000:]
            time.sleep(0.1)
        running[-1][1].extend(ranks_of(launcher))
        return launcher

    yield start
    for launcher, ranks in running:
        for group in [launcher.pid, *ranks]:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue
        launcher.communicate()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("number", "to_ranks", "workers"),
    [
        (signal.SIGINT, False, 2),  # Ctrl-C: the launcher passes it on
        (signal.SIGINT, True, 0),  # Ctrl-C with a launcher that leaves its ranks in the terminal's group
        (signal.SIGTERM, True, 2),  # a scheduler: every process of the job
        (signal.SIGHUP, False, 2),  # a terminal that goes away
    ],
)
def test_a_launched_run_saves_and_goes_on_to_the_same_end(
    make_config: MakeConfig, tmp_path: Path, a_port: int, started: Any, number: int, to_ranks: bool, workers: int
) -> None:
    fixed: dict[str, Any] = {"data": {"workers": workers}, "checkpoint": {"final": True}}
    config = make_config("stopped", train={"steps": 2000, "batch_size": 4}, **fixed)
    launcher = started(config, tmp_path / "c.yaml", a_port)
    if to_ranks:
        for rank in ranks_of(launcher):
            os.killpg(rank, number)
    launcher.send_signal(number)
    _, said = launcher.communicate(timeout=120)
    assert launcher.returncode not in (0, -number)
    assert said.count("stopping after this step, with a checkpoint; the launcher waits 30 s") == 1, said
    assert "run the same command to go on" in said and "killed by signal" not in said
    (saved,) = (config.output / "checkpoints").iterdir()
    steps = int(saved.name.removeprefix("step-")) + 2
    whole = make_config("whole", train={"steps": steps, "batch_size": 4}, **fixed)
    runs = [(config, tmp_path / "c.yaml"), (whole, tmp_path / "w.yaml")]
    for run, path in runs:
        done = launched(run, path, a_port, "--set", f"train.steps={steps}")
        _, said = done.communicate(timeout=300)
        assert done.returncode == 0, said[-3000:]
    resumed, uninterrupted = (json.loads((run.output / "summary.json").read_text()) for run, _ in runs)
    for name in ("steps", "read", "trained", "dropped", "failed", "held_out", "remainder", "groups", "heldout_loss"):
        assert resumed[name] == uninterrupted[name], name
    last = [load_file(run.output / f"checkpoints/step-{steps:08d}/model.safetensors") for run, _ in runs]
    assert all(bool((last[0][name] == last[1][name]).all()) for name in last[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_launcher_that_does_not_wait_saves_nothing(
    make_config: MakeConfig, tmp_path: Path, a_port: int, started: Any
) -> None:
    """What docs/distributed.md says cannot be helped from within: the variable is what decides."""
    config = make_config(train={"steps": 2000, "batch_size": 4})
    launcher = started(config, tmp_path / "c.yaml", a_port, **{TIMEOUT: "0"})
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=120)
    assert launcher.returncode != 0 and not list(config.output.glob("checkpoints/step-*"))
