"""The README's code and commands, read from the README so that they cannot drift, and run."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch.nn import functional
from typer.testing import CliRunner

from memsieve import MemorizationFilter, Predictions, Visit
from memsieve.cli import app

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"<!-- executed by tests/test_readme.py -->\n```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found, f"no {language} block marked as executed"
    return found


def test_the_loop_runs_as_printed() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    batch = {"latents": torch.randn(4, 4, 8, 8), "encoder_hidden_states": torch.randn(4, 6, 16), "key": list("abcd")}
    (setup,) = re.findall(r"^\+ (sieve = .*)$", TEXT, re.MULTILINE)
    scope: dict[str, Any] = {
        "torch": torch, "F": functional, "unet": unet, "noise_scheduler": DDPMScheduler(),
        "optimizer": torch.optim.SGD(unet.parameters(), lr=1e-3), "empty_caption": torch.zeros(1, 6, 16),
        "loader": [batch, batch], "MemorizationFilter": MemorizationFilter, "Predictions": Predictions, "Visit": Visit,
    }  # fmt: skip
    before = next(unet.parameters()).detach().clone()
    for code in [setup, *blocks("python")]:
        exec(code, scope)
    assert scope["sieve"].groups["exposures"].tolist() == [2, 2, 2, 2]
    assert [v.visit.key for v in scope["decision"].verdicts] == list("abcd")
    assert not torch.equal(before, next(unet.parameters())) or float(scope["decision"].weights.sum()) == 0


@pytest.mark.slow
def test_the_commands_run_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of their own; training is cut to three steps and generation to one image, the rest is as printed."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    shorter = {
        "train": ["--set", "train.steps=3"],
        "copies": ["--seeds", "1"],
        "detect": ["--schedule-steps", "10"],
        "explain": ["--schedule-steps", "10", "--images-per-prompt", "1"],
        "minimize": ["--schedule-steps", "4", "--iterations", "1", "--images-per-prompt", "1", "--ordinary", "few.txt"],
        "probe": ["--updates", "1", "--steps", "2", "--images-per-prompt", "1"],
    }
    (tmp_path / "prompts.txt").write_text("unicorn, white and blue\n")
    (tmp_path / "few.txt").write_text("a cat\na dog\n")
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    assert len(lines) >= 5 and all(line.startswith("memsieve ") for line in lines)
    for line in lines:
        words = shlex.split(line)[1:]
        result = CliRunner().invoke(app, [*words, *shorter.get(words[0], [])])
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
    assert (tmp_path / "runs" / "openmoji" / "report.html").is_file()


def test_every_file_that_the_readme_names_exists() -> None:
    for name in re.findall(r"`((?:configs|filtering|scripts)/[\w./]+)`", TEXT):
        assert (ROOT / name).exists(), name
    assert sys.version_info >= (3, 11)
