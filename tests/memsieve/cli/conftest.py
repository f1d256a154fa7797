"""Prompts and pictures that commands are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memsieve.inference.generate import load_pipeline
from tests.inference.copies.pictures import write_data

TINY = Path(__file__).parents[3] / "assets" / "tiny-sd"


@pytest.fixture
def lists(tmp_path: Path) -> tuple[Path, Path]:
    prompts, ordinary = tmp_path / "prompts.txt", tmp_path / "ordinary.txt"
    prompts.write_text("red apple\n\nblue car\n:cat: [bold]x[/bold] <b>y</b>\ngreen tree" + " x" * 300 + "\n")
    ordinary.write_text(
        "\n".join(f"{colour} {thing}" for colour in ("grey", "pink") for thing in ("cup", "dog", "sun", "ball"))
    )
    return prompts, ordinary


@pytest.fixture(scope="session")
def tuned_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder: its pipeline is the tiny base with one bias moved, and its config names that base."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    run.mkdir()
    (run / "config.yaml").write_text(f"model: {{path: {TINY}}}\n")
    pipe = load_pipeline(TINY)
    with torch.no_grad():
        pipe.unet.conv_out.bias.add_(0.5)
    pipe.save_pretrained(run / "pipeline")
    return run


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))
