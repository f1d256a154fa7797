"""The README's code and commands, read from the README so that they cannot drift, and run."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from memsieve.cli import app
from tests.readme_loop import TEXT, blocks, run_the_loop

ROOT = Path(__file__).parent.parent


def test_the_loop_runs_as_printed() -> None:
    scope = run_the_loop()
    assert scope["sieve"].filter.groups["exposures"].tolist() == [2, 2, 2, 2] and scope["sieve"].filter.step == 2
    assert [v.visit.key for v in scope["sieve"].verdicts] == list("abcd") and scope["loss"].item() > 0
    assert not torch.equal(scope["before"], next(scope["unet"].parameters()))


@pytest.mark.slow
@pytest.mark.timeout(1200)  # twenty commands, on all of OpenMoji
def test_the_commands_run_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the README, then those of the guides that go on from them, in a folder of their own; training is cut to
    three steps, an audit to one draw and generation to one image, the rest is as printed."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    shorter = {
        "train": ["--set", "train.steps=3"],
        "audit": ["--draws", "1"],
        "check": ["--most", "2", "--drawings", "1", "--steps", "2"],
        "detect": ["--schedule-steps", "10"],
        "explain": ["--schedule-steps", "10", "--images-per-prompt", "1"],
        "minimize": ["--schedule-steps", "4", "--iterations", "1", "--images-per-prompt", "1", "--ordinary", "few.txt"],
        "probe": ["--updates", "1", "--steps", "2", "--images-per-prompt", "1", "--most", "2", "--controls", "2"],
    }
    (tmp_path / "prompts.txt").write_text("unicorn, white and blue\n")
    (tmp_path / "few.txt").write_text("a cat\na dog\n")
    pages = ("README.md", "docs/runs.md", "docs/checking-a-model.md")
    lines = [line for page in pages for block in blocks("bash", page) for line in block.splitlines() if line.strip()]
    lines = list(dict.fromkeys(lines))
    assert len(lines) >= 12 and all(line.startswith("memsieve ") for line in lines)
    for line in lines:
        words = shlex.split(line)[1:]
        result = CliRunner().invoke(app, [*words, *shorter.get(words[0], [])])
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
    assert (tmp_path / "runs" / "openmoji" / "report.html").is_file()
    assert (tmp_path / "runs" / "openmoji" / "check" / "check.html").is_file()


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 180


def test_every_file_that_the_readme_names_exists() -> None:
    for name in re.findall(r"`((?:configs|filtering|scripts)/[\w./]+)`", TEXT):
        assert (ROOT / name).exists(), name
    assert sys.version_info >= (3, 11)
