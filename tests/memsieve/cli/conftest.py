"""Prompts and pictures that commands are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inference.copies.pictures import write_data


@pytest.fixture
def lists(tmp_path: Path) -> tuple[Path, Path]:
    prompts, ordinary = tmp_path / "prompts.txt", tmp_path / "ordinary.txt"
    prompts.write_text("red apple\n\nblue car\n:cat: [bold]x[/bold] <b>y</b>\ngreen tree" + " x" * 300 + "\n")
    ordinary.write_text(
        "\n".join(f"{colour} {thing}" for colour in ("grey", "pink") for thing in ("cup", "dog", "sun", "ball"))
    )
    return prompts, ordinary


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))
