"""``memsieve minimize``: what it prints and leaves behind."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.cli.minimize import minimize as command
from memsieve.inference.minimize.minimize import TARGET_QUANTILE, minimize
from memsieve.inference.minimize.settings import MinimizeSettings

BASE = ["--model", str(Path(__file__).parents[3] / "assets" / "tiny-sd"), "--schedule-steps", "10"]


def test_minimize(tmp_path: Path) -> None:
    (tmp_path / "o.txt").write_text("grey cup\nblue ball\nold tree\n")
    words = ["minimize", *BASE, "--prompt", "unicorn, white and blue", "--ordinary", str(tmp_path / "o.txt")]
    out = tmp_path / "m"
    arguments = ["--out", str(out), "--images-per-prompt", "2", "--iterations", "3", "--replace", "thing"]
    result = CliRunner().invoke(app, [*words, *arguments])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    found = json.loads((out / "minimize.json").read_text())
    assert len(found["value"]) == 2 and found["suggestions"][0]["change"] == "none"
    assert any("by 'thing'" in s["change"] for s in found["suggestions"])
    tensors = load_file(out / "embeddings.safetensors")
    pipe = StableDiffusionPipeline.from_pretrained(BASE[1], local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(**tensors, num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, 3, 32, 32), "usable in any pipeline call"
    assert Image.open(out / "minimize.png").size[0] > 200


def test_beside_its_base_the_drift_is_minimised(tuned_run: Path, tmp_path: Path) -> None:
    (tmp_path / "o.txt").write_text("grey cup\nblue ball\n")
    words = ["minimize", "--model", str(tuned_run / "pipeline"), "--prompt", "red panda", "--schedule-steps", "10"]
    more = ["--ordinary", str(tmp_path / "o.txt"), "--images-per-prompt", "1", "--iterations", "1", "--no-generate"]
    result = CliRunner().invoke(app, [*words, *more, "--out", str(tmp_path / "m")])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert "drift before" in result.output
    found = json.loads((tmp_path / "m" / "minimize.json").read_text())
    assert found["measure"] == "drift" and found["targets"] == pytest.approx([0.5], rel=1e-3)
    assert found["suggestions"][0]["score"] == pytest.approx(0.5, rel=1e-3)


def test_the_commands_defaults_are_the_librarys() -> None:
    """They are written down twice, since the command line starts without torch."""
    told, library = (inspect.signature(found).parameters for found in (command, minimize))
    assert told["target_quantile"].default == TARGET_QUANTILE and told["batch"].default == library["batch"].default
    for name, value in asdict(MinimizeSettings()).items():
        assert told[name].default == value, name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", " "], "--prompt: the prompt is empty"),
        (["--prompt", "cat", "--guidance-scale", "0.5"], "--guidance-scale = 0.5"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["minimize", *BASE, *words])
    assert isinstance(result.exception, ValueError) and message in str(result.exception)
