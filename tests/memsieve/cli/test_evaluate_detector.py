"""``memsieve evaluate-detector``: what it prints and leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memsieve.cli import app

ROOT = Path(__file__).parents[3]


BASE = ["--model", str(ROOT / "assets" / "tiny-sd"), "--schedule-steps", "10", "--batch", "8"]


@pytest.fixture
def lists(tmp_path: Path) -> tuple[Path, Path]:
    prompts, ordinary = tmp_path / "prompts.txt", tmp_path / "ordinary.txt"
    prompts.write_text("red apple\n\nblue car\n:cat: [bold]x[/bold] <b>y</b>\ngreen tree" + " x" * 300 + "\n")
    ordinary.write_text(
        "\n".join(f"{colour} {thing}" for colour in ("grey", "pink") for thing in ("cup", "dog", "sun", "ball"))
    )
    return prompts, ordinary


def invoke(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


def test_evaluate_detector(lists: tuple[Path, Path], tmp_path: Path) -> None:
    prompts, ordinary = lists
    out = tmp_path / "e.json"
    text = invoke(
        "evaluate-detector", *BASE, "--memorized", prompts, "--ordinary", ordinary, "--steps", "1,2",
        "--images-per-prompt", "1", "--detector", "magnitude_cosine", "--out", out,
    )  # fmt: skip
    assert "4 memorised prompts in 4 groups" in text and "allows none of them" in text
    found = json.loads(out.read_text())
    assert len(found["results"]) == 2 and found["seconds_per_generation"] > 0
    assert 0 <= found["results"][0]["auc"]["low"] <= found["results"][0]["auc"]["high"] <= 1
