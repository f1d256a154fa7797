"""scripts/gpu_checks at its smallest, as a person runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "scripts" / "run_gpu_checks.py"
sys.path.append(str(SCRIPT.parent))

from gpu_own_loop import PARTS, Devices, launch  # noqa: E402
from run_gpu_checks import arguments, main  # noqa: E402


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


def checked(folder: Path, families: str, *more: str) -> None:
    done = run("--size", "tiny", "--steps", "2", "--families", families, "--no-own-loop", "--out", str(folder), *more)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "results.json").read_text())
    assert list(found) == families.split(",") and "s per step" in done.stdout
    for family, values in found.items():
        assert values["audited"] > 32 and values["train_gib"] > 0.1 and values["step_seconds"] > 0
        written = "lora/base_model.json" if more else "pipeline/model_index.json"
        assert (folder / family / "run" / written).is_file()
        if family == "flux":
            assert "detected" not in values and "distilled" in done.stdout
        else:
            assert values["detected"] == 8


def test_one_family(tmp_path: Path) -> None:
    checked(tmp_path, "flux")


@pytest.mark.slow
def test_adapters(tmp_path: Path) -> None:
    checked(tmp_path, "sdxl,flux", "--lora", "4")


@pytest.mark.slow
def test_the_others(tmp_path: Path) -> None:
    checked(tmp_path, "sd,sdxl,sd3,flux_guided,pixart")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readmes_lines_and_both_examples_run_on_the_devices_that_there_are(tmp_path: Path) -> None:
    done = run("--size", "tiny", "--steps", "3", "--families", "", "--out", str(tmp_path))
    logs = "\n".join(log.read_text()[-2000:] for log in (tmp_path / "own_loop").glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr[-2000:] + logs
    found = json.loads((tmp_path / "results.json").read_text())
    assert tuple(found) == PARTS and "own loop" in done.stdout and "s per step" not in done.stdout
    devices = Devices.present()
    for part, row in found.items():
        assert row == {"seconds": row["seconds"], "ranks": devices.ranks, "device": devices.name, "outcome": "ok"}
        assert row["seconds"] > 0 and re.search(rf"{part} .*ok", done.stdout)
    lines = (tmp_path / "own_loop" / "readme_loop_ddp.log").read_text()
    assert ("cuda:0, cuda:nccl" if torch.cuda.is_available() else "cpu, cpu:gloo") in lines
    assert (tmp_path / "own_loop" / "filter_in_your_loop" / "model_index.json").is_file()
    assert (tmp_path / "own_loop" / "filter_in_a_lora_loop" / "pytorch_lora_weights.safetensors").is_file()


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
        (script,) = [Path(word) for word in command[1:] if word.endswith(".py")]
        assert script.is_file()


def test_without_time_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--size", "tiny", "--families", "sd", "--minutes", "-1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    assert main() == 1 and "no time left" in capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text())
    assert list(found) == ["sd", *PARTS] and all(found[part]["outcome"] == "no time left" for part in PARTS)


def test_a_family_that_fails_leaves_the_others_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {
        "parameters": 1e6, "step_seconds": 0.1, "train_gib": 1.0, "audited": 64, "audit_seconds": 1.0, "audit_gib": 1.0
    }  # fmt: skip

    def check(family: str, options: object) -> dict[str, float]:
        if family == "sd":
            raise RuntimeError("[the reason]")
        return measured

    monkeypatch.setattr("run_gpu_checks.check", check)
    words = ["--size", "tiny", "--families", "sd,flux", "--no-own-loop", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    assert main() == 1
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "sd": {"failed": "RuntimeError: [the reason]"}, "flux": measured
    }  # fmt: skip
    assert "RuntimeError: [the reason]" in capsys.readouterr().out.replace("\n", " ")


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    with pytest.raises(SystemExit):
        arguments()
    return capsys.readouterr().err


def test_wrong_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'sd9' is not known" in refused(monkeypatch, capsys, "--families", "sd9")
    nothing = refused(monkeypatch, capsys, "--size", "tiny", "--families", "", "--no-own-loop")
    assert "nothing to check; give up one of them" in nothing
    if not torch.cuda.is_available():
        assert "there is no GPU; --size tiny runs on a CPU" in refused(monkeypatch, capsys)
