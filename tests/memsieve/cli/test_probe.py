"""``memsieve probe``: what it prints and leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memsieve.cli import app

TINY = Path(__file__).parents[3] / "assets" / "tiny-sd"


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    run = CliRunner().invoke
    data = str(tmp_path / "data")
    result = run(app, ["data", "openmoji", data, "--size", "32", "--plant", "2x4", "--limit", "300"])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    shards = ["--data", f"{data}/train", "--held-out", f"{data}/held_out"]
    words = ["probe", "--model", str(TINY), *shards, "--most", "2", "--images-per-prompt", "1", "--steps", "2"]
    result = run(app, [*words, "--attack", "--updates", "2", "--controls", "2", "--out", str(tmp_path / "p.json")])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    found = json.loads((tmp_path / "p.json").read_text())["results"]
    assert "without the model before fine-tuning an embedding is searched for" in " ".join(result.output.split())
    assert set(found) == {"chosen pairs, caption", "chosen pairs, attack", "held-out controls, attack"}
    assert all(entry["rate"]["generations"] == 2 for entry in found.values())
    more = ["--attack", "--base", str(TINY), "--updates", "1", "--controls", "1", "--out", str(tmp_path / "b.json")]
    result = run(app, [*words, *more])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    beside = json.loads((tmp_path / "b.json").read_text())["results"]
    assert set(beside) == {*found, "chosen pairs, base", "held-out controls, base"}
    assert len(beside["chosen pairs, base"]["cluster_shares"]) == 2
    (tmp_path / "g.txt").write_text("nobody\n")
    result = run(app, [*words, "--groups", str(tmp_path / "g.txt")])
    assert "'nobody' is no group" in str(result.exception)


def test_a_base_is_for_the_attacks(tmp_path: Path) -> None:
    words = ["probe", "--model", str(TINY), "--data", str(tmp_path), "--held-out", "h", "--base", str(TINY)]
    assert "the attacks alone compare with it; add --attack" in str(CliRunner().invoke(app, words).exception)


def test_resume_needs_a_place(tmp_path: Path) -> None:
    words = ["probe", "--model", str(TINY), "--data", str(tmp_path), "--held-out", "h", "--resume"]
    assert "--resume needs --out FILE" in str(CliRunner().invoke(app, words).exception)
