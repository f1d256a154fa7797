"""Loops of one's own, launched: what goes wrong is told, nothing is left behind, every device is used."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from scripts.gpu.own_loop import PARTS, Devices, launch

FAILING = """
import os, sys, time
if sys.argv[1] == "fails" and os.environ["RANK"] == "1":
    raise ValueError("[the reason]")
if sys.argv[1] != "silent" or os.environ["RANK"] == "0":
    sys.stdout.write(f"rank {os.environ['RANK']}: here")  # ranks that speak at once can come in one line
time.sleep(0 if sys.argv[1] in ("silent", "works") else 600)
"""


def launched(folder: Path, how: str, seconds: float = 200) -> str:
    script = folder / "failing.py"
    script.write_text(FAILING)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return launch([*torchrun, str(script), how], 2, folder / f"{how}.log", seconds)


@pytest.mark.slow
def test_an_own_loop_that_fails_is_told_by_its_own_error(tmp_path: Path) -> None:
    assert launched(tmp_path, "works") == "ok"
    assert launched(tmp_path, "fails") == "ValueError: [the reason]"
    assert launched(tmp_path, "silent") == "nothing was said by rank 1"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc, which is Linux's")
def test_an_own_loop_whose_time_is_over_leaves_no_process(tmp_path: Path) -> None:
    assert launched(tmp_path, "sleeps", 15) == "no time left after 15 s"
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            assert str(tmp_path).encode() not in file.read_bytes()


@pytest.mark.parametrize(("gpus", "ranks", "launcher"), [(0, 2, "cpu_2ranks"), (1, 1, "one_gpu"), (3, 3, "ddp_8gpu")])
def test_own_loops_use_every_gpu(monkeypatch: pytest.MonkeyPatch, gpus: int, ranks: int, launcher: str) -> None:
    """Only the count of GPUs is made up: what it leads to is the same anywhere."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A100")
    devices = Devices.present()
    assert devices.name == {0: "CPU, gloo", 1: "A100, NCCL", 3: "3 x A100, NCCL"}[gpus]
    for part in PARTS:
        command = devices.command(part)
        if part == "readme_loop_ddp":
            assert f"--nproc_per_node={ranks}" in command
        else:
            (config,) = [Path(word) for word in command if word.endswith(".yaml")]
            assert config.stem == launcher and config.is_file()
            assert command[command.index("--num_processes") + 1] == str(ranks)
        if part.startswith("readme_loop"):
            assert command[-3] == "-m" and find_spec(command[-2]) is not None
        else:
            assert Path(command[-1]).is_file() and Path(command[-1]).stem == part
