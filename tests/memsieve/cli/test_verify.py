"""``memsieve verify``: what it prints, and sentences for bad input."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.inference.copies.index_build import build_index
from tests.inference.copies.pictures import picture


def test_verify(shards: Path, tmp_path: Path) -> None:
    build_index(str(shards / "train"), tmp_path / "i", held_out=str(shards / "held"), progress=False)
    (tmp_path / "q.png").write_bytes(picture(7, 64))
    words = ["verify", "--index", str(tmp_path / "i"), "--out", str(tmp_path / "v")]
    result = CliRunner().invoke(app, [*words, "--images", str(tmp_path / "q.png")])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert "1 read = 1 compared + 0 failed; 1 copies" in result.output
    model = str(Path(__file__).parents[3] / "assets" / "tiny-sd")
    (tmp_path / "p.txt").write_text("red apple\n\n")
    result = CliRunner().invoke(app, [*words, "--model", model, "--prompts", str(tmp_path / "p.txt"), "--steps", "2"])
    assert result.exit_code == 0 and "line 2: the prompt is empty" in result.output
    assert "without the model before fine-tuning nothing says which" in " ".join(result.output.split())
    more = ["--model", model, "--base", model, "--prompts", str(tmp_path / "p.txt"), "--steps", "2"]
    result = CliRunner().invoke(app, [*words, *more, "--threshold", "5"])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert "1 copies, 1 of them copies by the model before fine-tuning too" in result.output
    (found,) = json.loads((tmp_path / "v" / "matches.json").read_text())
    assert found["base_copy"] is True and found["base_distance"] == found["neighbours"][0]["distance"]
    assert "a copy too: not learned in fine-tuning" in (tmp_path / "v" / "matches.html").read_text()
    for extra, message in (
        ([], "give either --images, or --model together with --prompts"),
        (["--images", "missing", "--base", model], "--base draws beside a model: give it with --model"),
        (["--images", "missing"], "there is nothing at 'missing'"),
        (["--images", str(tmp_path / "q.png"), "--engine", "magic"], "--engine = 'magic'"),
        (["--images", str(tmp_path / "q.png"), "--false-positive-rate", "0.001"], "needs at least 999 held-out images"),
        (["--images", str(tmp_path / "q.png"), "--index", str(tmp_path)], "holds no index"),
    ):
        result = CliRunner().invoke(app, [*words, *extra])
        assert isinstance(result.exception, ValueError) and message in str(result.exception), message
