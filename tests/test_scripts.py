"""The shell scripts parse, are executable, and say how they are used."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BASH = shutil.which("bash")


def first_line(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.readline().decode("utf-8", "replace").strip()


SCRIPTS = sorted(p for folder in ("scripts", ".ci") for p in (ROOT / folder).iterdir() if p.is_file())
SHELL = [p for p in SCRIPTS if "bash" in first_line(p)]
COMMANDS = [p for p in SCRIPTS if first_line(p).startswith("#!")]


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_the_known_scripts_are_there() -> None:
    assert {"scripts/_env", "scripts/check", "scripts/test", ".ci/run"} <= {name(p) for p in SHELL}


@pytest.mark.skipif(BASH is None, reason="no bash")
@pytest.mark.parametrize("script", SHELL, ids=name)
def test_shell_syntax(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", COMMANDS, ids=name)
def test_commands_are_executable(script: Path) -> None:
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("script", [p for p in SHELL if p in COMMANDS], ids=name)
def test_commands_stop_at_the_first_failure(script: Path) -> None:
    assert "set -euo pipefail" in script.read_text(encoding="utf-8").splitlines()


def test_torch_pin_fits_every_build() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = [line for line in pins if line.startswith("torch==")]
    assert len(torch) == 1
    assert "+" not in torch[0]


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=name)
def test_accelerate_configs_load(file: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    text = file.read_text(encoding="utf-8")
    assert f"--config_file {name(file)}" in text, "the header names the launch command"
    assert "# Hardware:" in text
    assert load_config_from_file(str(file)).num_processes == yaml.safe_load(text)["num_processes"]
