"""The shell scripts parse, are executable, and say how they are used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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
    assert {"scripts/_env", "scripts/_latest", "scripts/check", "scripts/test", ".ci/run", ".ci/latest"} <= {
        name(p) for p in SHELL
    }


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


@pytest.mark.skipif(BASH is None, reason="no bash")
@pytest.mark.parametrize("mode", ["--all", "--cpus"])
def test_the_modes_of_the_test_script_take_no_arguments_and_are_in_its_header(mode: str) -> None:
    done = subprocess.run(["bash", "scripts/test", mode, "x"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and f"usage: scripts/test {mode}" in done.stderr
    assert f"#   scripts/test {mode} " in (ROOT / "scripts" / "test").read_text(encoding="utf-8")


@pytest.mark.skipif(BASH is None, reason="no bash")
def test_the_newest_releases_are_tested_in_an_environment_of_their_own(tmp_path: Path) -> None:
    """Each run brings it up to date, without pins; what is found there is compared with them."""
    (tmp_path / "scripts").mkdir()
    for file in ("check", "_latest"):
        shutil.copy(ROOT / "scripts" / file, tmp_path / "scripts" / file)
    shutil.copy(ROOT / "constraints.txt", tmp_path / "constraints.txt")
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    # Stands for the environment that is there: pip's calls are written down, all else goes to this interpreter.
    python = tmp_path / ".cache" / "latest" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/bash\nif [[ "$2" == pip ]]; then echo "$@" >>"{tmp_path}/pip"; else exec "{sys.executable}" "$@"; fi\n'
    )
    python.chmod(0o755)
    pinned = (tmp_path / "constraints.txt").read_text()
    (tmp_path / "constraints.txt").write_text(pinned.replace("\npytest==", "\npytest==0."))
    command = ["bash", "scripts/check", "--latest", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 passed" in done.stdout and "pytest 0." in done.stdout and "torch 2" not in done.stdout
    calls = (tmp_path / "pip").read_text().splitlines()
    assert len(calls) == 2 and all("--upgrade" in call and "constraints" not in call for call in calls)


VARIABLES = ("MEMSIEVE_TEST_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
TRAINS = """
import os, pathlib, pytest

@pytest.mark.trains
def test_it():
    with open("seen", "a") as seen:
        seen.write(" ".join(os.environ.get(name, "unset") for name in {names}) + "\\n")
    assert not pathlib.Path("broken").exists() or os.environ.get("ATEN_CPU_CAPABILITY") != "avx2"

def test_another():
    assert False
"""


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    """A checkout with two tests, one of which trains, and the real scripts/test; its interpreter is this one."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "scripts" / "test", tmp_path / "scripts" / "test")
    (tmp_path / "scripts" / "_env").write_text(f'ROOT="{tmp_path}"; cd "$ROOT"; PYTHON="{sys.executable}"\n')
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    trains\n    slow\n    other_seeds\n")
    (tmp_path / ".gitignore").write_text(".cache/\n__pycache__/\nseen\nbroken\n")
    (tmp_path / "tests" / "test_one.py").write_text(TRAINS.format(names=VARIABLES))
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


@pytest.mark.skipif(BASH is None or shutil.which("git") is None, reason="no bash or no git")
def test_cpus_runs_what_trains_under_each_setting_and_goes_on(small_tree: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "SSE41"}
        return subprocess.run(["bash", "scripts/test", "--cpus"], cwd=small_tree, env=environment, capture_output=True,
                              text=True, timeout=120, check=False)  # fmt: skip

    (small_tree / "broken").touch()
    first = run()
    assert first.returncode == 1 and "3 passed, 2 failed, 0 skipped" in first.stdout, first.stdout + first.stderr
    seen = [line.split() for line in (small_tree / "seen").read_text().splitlines()]
    for threads in ("1", "2"):
        settings = [tuple(line[1:]) for line in seen if line[0] == threads]
        by_default = {("unset", "unset")} if threads == "1" else set()  # what --all runs
        assert {aten for aten, _ in {*settings, *by_default}} == {"default", "avx2", "unset"}
        assert {onednn for _, onednn in settings} == {"AVX2", "unset"}
    (small_tree / "broken").unlink()
    second = run()
    assert second.returncode == 0 and second.stdout.count("passed before for this tree") == 3, second.stderr
    again = [line.split() for line in (small_tree / "seen").read_text().splitlines()][len(seen) :]
    assert [line[1] for line in again] == ["avx2", "avx2"], "only what failed is run again"
    assert len(list((small_tree / ".cache" / "test-cpus").glob("summary-*.txt"))) >= 1


@pytest.mark.skipif(BASH is None or shutil.which("git") is None, reason="no bash or no git")
def test_all_runs_a_folder_at_a_time_and_goes_on(small_tree: Path) -> None:
    (small_tree / "tests" / "test_one.py").unlink()
    for number in range(3):
        text = "from pathlib import Path\n\n\ndef test_it():\n    "
        text += "assert not Path('broken').exists()\n" if number == 2 else "pass\n"
        (small_tree / "tests" / f"test_{number:02d}.py").write_text(text)
    (small_tree / "tests" / "below" / "deep").mkdir(parents=True)
    (small_tree / "tests" / "below" / "deep" / "test_slow.py").write_text(
        "import pytest\n\n\n@pytest.mark.slow\ndef test_it():\n    pass\n"
    )
    (small_tree / "broken").touch()

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "scripts/test", "--all"], cwd=small_tree, capture_output=True, text=True,
                              timeout=120, check=False)  # fmt: skip

    first = run()
    assert first.returncode == 1 and "3 passed, 1 failed, 0 skipped" in first.stdout, first.stdout + first.stderr
    parts = {line for line in first.stdout.splitlines() if line.startswith("== tests")}
    assert parts == {"== tests", "== tests/below"}
    (small_tree / "broken").unlink()
    second = run()
    assert second.returncode == 0 and "4 passed, 0 failed" in second.stdout, second.stdout + second.stderr
    assert second.stdout.count("passed before for this tree") == 1, "the folder with the failure alone is run again"


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
