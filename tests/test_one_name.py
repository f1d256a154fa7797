"""memsieve claims one import name: a user's own train.py, inference.py and filtering.py stay theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.train.conftest import shards, tiny_config, tiny_model  # noqa: F401

ROOT = Path(__file__).parents[1]
NAMES = ("filtering", "train", "inference")
LOADED = f"import sys; loaded = sorted(set({NAMES}) & set(sys.modules)); assert not loaded, loaded"


def run(words: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A command where somebody has modules of these names; the package comes from its installation."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        words, cwd=folder, env={**environment, **more}, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A working folder with such modules, which must not be run."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is the user\\'s own module')\n")
    return tmp_path


def test_a_run_and_a_guard_beside_modules_of_the_users_own(theirs: Path, tiny_model: Path, shards: Path) -> None:  # noqa: F811
    config = tiny_config(tiny_model, shards, theirs / "run", train={"steps": 1}).model_dump(mode="json")
    (theirs / "c.yaml").write_text(yaml.safe_dump(config))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    done = run([*launcher, "-m", "memsieve.train", "c.yaml"], theirs, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (theirs / "run" / "summary.json").is_file()
    done = run([sys.executable, "-c", f"from memsieve import MemorizationGuard; {LOADED}"], theirs)
    assert done.returncode == 0, done.stderr


def test_no_module_of_ours_is_loaded_under_a_bare_name() -> None:
    modules = [
        path.with_suffix("").relative_to(ROOT).as_posix().replace("/", ".")
        for folder, _, names in os.walk(ROOT / "memsieve", followlinks=True)
        for path in (Path(folder, name) for name in names)
        if path.suffix == ".py" and path.name not in ("__main__.py", "__init__.py")
    ]
    assert len(modules) > 150
    code = f"import importlib\nfor name in {modules}:\n    importlib.import_module(name)\n{LOADED}"
    done = run([sys.executable, "-c", code], ROOT)
    assert done.returncode == 0, done.stderr


def test_neither_do_the_tests() -> None:
    assert not set(NAMES) & set(sys.modules)


def test_a_checkout_whose_links_did_not_survive(tmp_path: Path) -> None:
    (tmp_path / "memsieve").mkdir()
    shutil.copy(ROOT / "memsieve" / "__init__.py", tmp_path / "memsieve")
    for name in NAMES:  # what git leaves where it may not make links
        (tmp_path / "memsieve" / name).write_text(f"../{name}")
    done = run([sys.executable, "-c", "import memsieve"], tmp_path)
    assert done.returncode == 1 and "core.symlinks true" in done.stderr and "install the wheel" in done.stderr


def test_the_old_name_of_the_trainer_names_the_new_one() -> None:
    done = run([sys.executable, "-m", "train", "c.yaml"], ROOT)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "error: the trainer's name is memsieve.train: accelerate launch -m memsieve.train CONFIG.yaml"
    )


@pytest.mark.parametrize("words", [[sys.executable, "-m", "memsieve"], ["memsieve"]])
def test_the_command(words: list[str], theirs: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    from memsieve import __version__

    done = run([*words, "--version"], theirs, PATH=path)
    assert done.returncode == 0 and done.stdout.strip() == f"memsieve {__version__}"
    assert "detect" in run([*words, "--help"], theirs, PATH=path).stdout
