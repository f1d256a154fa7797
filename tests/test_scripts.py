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


def settings_of_cpus() -> list[dict[str, str]]:
    text = (ROOT / "scripts" / "test").read_text(encoding="utf-8")
    lines = text.partition("CPUS=(\n")[2].partition("\n)")[0].splitlines()
    return [dict(word.split("=") for word in line.strip(' "').split()) for line in lines]


def test_every_processor_setting_comes_with_one_thread_and_with_two() -> None:
    found = settings_of_cpus()
    wanted = [("ATEN_CPU_CAPABILITY", v) for v in ("default", "avx2", None)]
    wanted += [("ONEDNN_MAX_CPU_ISA", v) for v in ("AVX2", None)]
    for name, value in wanted:
        threads = {one["MEMSIEVE_TEST_THREADS"] for one in found if one.get(name) == value}
        assert threads == {"1", "2"}, (name, value)


@pytest.mark.skipif(BASH is None, reason="no bash")
@pytest.mark.parametrize("mode", ["--all", "--cpus"])
def test_modes_of_the_tests_take_no_arguments(mode: str) -> None:
    done = subprocess.run(
        [str(ROOT / "scripts" / "test"), mode, "tests"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2 and f"usage: scripts/test {mode} (it takes no further arguments)" in done.stderr


SMALL_TEST = """
import os
import pytest
import torch

@pytest.mark.trains
def test_it():
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MEMSIEVE_TEST_THREADS")
    with open({seen!r}, "a") as file:
        print(*(os.environ.get(name, "-") for name in names), file=file)
    assert torch.backends.cpu.get_cpu_capability() != "DEFAULT" or os.environ.get("ATEN_CPU_CAPABILITY") == "default"
    assert os.environ["MEMSIEVE_TEST_THREADS"] != os.environ.get("FAILS_WITH")

def test_another():
    raise AssertionError("it is not marked")
"""


@pytest.mark.slow
@pytest.mark.skipif(BASH is None, reason="no bash")
@pytest.mark.timeout(900)
def test_cpus_runs_what_is_marked_under_every_setting_and_goes_on(tmp_path: Path) -> None:
    """On a small checkout with one such test, in this one's environment."""
    root, seen = tmp_path / "checkout", tmp_path / "seen.txt"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    for file in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, root / file)
    for package in ROOT.glob("*/__init__.py"):
        (root / package.parent.name).symlink_to(package.parent)
    (root / ".venv").symlink_to(ROOT / ".venv")
    (root / "tests").mkdir()
    (root / "tests" / "test_small.py").write_text(SMALL_TEST.format(seen=str(seen)))
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".gitignore").write_text(".venv\n.cache/\n__pycache__/\n")

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(root / "scripts" / "test"), "--cpus"],
            capture_output=True, text=True, timeout=800, check=False, env={**os.environ, **environment},
        )  # fmt: skip

    failed = run(FAILS_WITH="2", ATEN_CPU_CAPABILITY="avx2")
    assert failed.returncode == 1 and "4 passed, 4 failed, 0 skipped" in failed.stdout, failed.stdout + failed.stderr
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MEMSIEVE_TEST_THREADS")
    expected = [" ".join(one.get(name, "-") for name in names) for one in settings_of_cpus()]
    assert seen.read_text().splitlines() == expected, "whatever is set where it is called"
    done = run()
    assert done.returncode == 0 and "8 passed, 0 failed, 0 skipped" in done.stdout
    assert done.stdout.count("passed before for this tree, not run again") == 4
