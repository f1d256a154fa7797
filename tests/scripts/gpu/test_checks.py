"""scripts/gpu_checks at its smallest, as a person runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memsieve.filtering.denoisers.registry import denoiser_of
from scripts.gpu.checks import arguments, main
from scripts.gpu.models import RESOLUTION, build
from scripts.gpu.own_loop import PARTS, Devices
from tests.tiny_models import DISTILLED, RECENT

ROOT = Path(__file__).resolve().parents[3]
MODULE = "scripts.gpu.checks"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", MODULE, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


def checked(folder: Path, families: str, *more: str) -> None:
    done = run("--size", "tiny", "--steps", "2", "--families", families, "--no-own-loop", "--out", str(folder), *more)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "results.json").read_text())
    assert list(found) == families.split(",") and "s per step" in done.stdout
    for family, values in found.items():
        assert values["audited"] > 32 and values["train_gib"] > 0.1 and values["step_seconds"] > 0
        written = "lora/base_model.json" if more else "pipeline/model_index.json"
        assert (folder / family / "run" / written).is_file()
        if family in DISTILLED:
            assert "detected" not in values and "distilled" in done.stdout
        else:
            assert values["detected"] == 8


def test_one_family(tmp_path: Path) -> None:
    checked(tmp_path, "flux")


@pytest.mark.slow
def test_adapters(tmp_path: Path) -> None:
    checked(tmp_path, "sdxl,flux", "--lora", "4")


@pytest.mark.slow
def test_adapters_on_bases_in_fewer_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    checked(tmp_path, "flux", "--lora", "4", "--quantize", "nf4", "--optimizer", "adamw_8bit")
    refused = run("--quantize", "nf4", "--size", "tiny")
    assert refused.returncode == 2 and "name --lora RANK too" in refused.stderr


@pytest.mark.slow
def test_the_others(tmp_path: Path) -> None:
    checked(tmp_path, "sd,sdxl,sd3,flux_guided,pixart")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_recent_ones(tmp_path: Path) -> None:
    checked(tmp_path, ",".join(RECENT))


@pytest.mark.slow
@pytest.mark.parametrize("family", RECENT)
def test_those_that_keep_a_gpu_busy_can_be_built(family: str) -> None:
    """What is enlarged fits together: one prediction, of latents of eight pixels or sixteen."""
    denoiser = denoiser_of(build(family, "small"))
    noisy = torch.zeros(1, *denoiser.latent_shape(RESOLUTION["small"]))
    with torch.no_grad():
        found = denoiser.predict(denoiser.model, noisy, torch.tensor([500.0]), denoiser.conditioning(["cat"]))
    assert found.shape == noisy.shape and noisy.shape[-1] in (16, 32)


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


def test_without_time_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--size", "tiny", "--families", "sd", "--minutes", "-1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [MODULE, *words])
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

    monkeypatch.setattr("scripts.gpu.checks.check", check)
    words = ["--size", "tiny", "--families", "sd,flux", "--no-own-loop", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [MODULE, *words])
    assert main() == 1
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "sd": {"failed": "RuntimeError: [the reason]"}, "flux": measured
    }  # fmt: skip
    assert "RuntimeError: [the reason]" in capsys.readouterr().out.replace("\n", " ")


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", [MODULE, *words])
    with pytest.raises(SystemExit):
        arguments()
    return capsys.readouterr().err


def test_wrong_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'sd9' is not known" in refused(monkeypatch, capsys, "--families", "sd9")
    nothing = refused(monkeypatch, capsys, "--size", "tiny", "--families", "", "--no-own-loop")
    assert "nothing to check; give up one of them" in nothing
    if not torch.cuda.is_available():
        assert "there is no GPU; --size tiny runs on a CPU" in refused(monkeypatch, capsys)
