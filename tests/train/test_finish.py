"""The end of a run: what says "done" is written last, and what could not be written is written by the same command."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up

MakeConfig = Callable[..., RunConfig]
runner = CliRunner()


@pytest.fixture
def large_text_encoder(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with one file that an export writes and a checkpoint does not, of more than 1 MB."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    settings = CLIPTextConfig.from_pretrained(folder / "text_encoder")
    settings.intermediate_size = 10_000
    CLIPTextModel(settings).save_pretrained(folder / "text_encoder")
    return folder


@contextmanager
def no_room_for(size: int) -> Iterator[None]:
    """Writing fails in this process once a file has ``size`` bytes, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def train(config: RunConfig, path: Path) -> tuple[int, str]:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    result = runner.invoke(app, ["train", str(path)])
    return result.exit_code, " ".join(result.stderr.split())


def test_an_export_that_found_no_room_is_done_by_the_same_command_without_training_again(
    make_config: MakeConfig, large_text_encoder: Path, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {
        "model": {"path": str(large_text_encoder)},
        "train": {"steps": 2},
        "optimizer": {"name": "sgd"},
        "checkpoint": {"final": True, "export": True},
    }
    config = make_config("full", **sections)
    with no_room_for(700_000):
        code, said = train(config, tmp_path / "c.yaml")
    assert code == 1 and "Traceback" not in said
    assert f"'{config.output}/pipeline' could not be written: " in said and "File too large" in said
    assert "The training is whole in checkpoints/step-00000002: make room, and the same command writes it" in said
    left = {path.name for path in config.output.iterdir()}
    assert not left & {"summary.json", "pipeline", "unfinished-pipeline"}, "nothing says that the run is complete"
    assert (config.output / "checkpoints/step-00000002").is_dir()
    code, said = train(config, tmp_path / "c.yaml")
    assert code == 0 and "2 updates" in said
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    assert sum("train/loss" in row for row in rows) == 2, "no window was trained again"
    whole = make_config("whole", **sections)
    assert train(whole, tmp_path / "w.yaml")[0] == 0
    summaries = [json.loads((run.output / "summary.json").read_text()) for run in (config, whole)]
    assert all(summaries[0][name] == summaries[1][name] for name in ("read", "trained", "steps", "heldout_loss"))
    file = "pipeline/unet/diffusion_pytorch_model.safetensors"
    ours, theirs = (load_file(run.output / file) for run in (config, whole))
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    StableDiffusionPipeline.from_pretrained(config.output / "pipeline")


def test_the_summary_is_written_last(make_config: MakeConfig) -> None:
    config = make_config(train={"steps": 2}, checkpoint={"final": True, "export": True})
    fit(set_up(config))
    times = {path: path.stat().st_mtime_ns for path in config.output.rglob("*") if path.is_file()}
    assert max(times, key=lambda path: times[path]).name == "summary.json"
    assert {path.name for path in config.output.iterdir()} == {
        "checkpoints", "config.yaml", "groups.parquet", "evidence.parquet", "ledger", "metrics.jsonl", "pipeline",
        "seen", "summary.json", "thumbnails",
    } - ({"thumbnails"} if not (config.output / "thumbnails").exists() else set())  # fmt: skip


def test_a_run_that_goes_on_is_not_complete_until_it_ends_again(make_config: MakeConfig) -> None:
    config = make_config(train={"steps": 1}, checkpoint={"final": True})
    fit(set_up(config))
    config.train.steps = 3
    session = set_up(config)

    def fails(batches: Any) -> Any:
        raise OSError("the disk is gone")

    session.trainer.train = fails  # type: ignore[method-assign]
    with pytest.raises(OSError, match="gone"):
        fit(session)
    assert not (config.output / "summary.json").exists()
