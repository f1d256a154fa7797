"""``memsieve verify``: what it prints, and sentences for bad input."""

from __future__ import annotations

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
    for extra, message in (
        ([], "give either --images, or --model together with --prompts"),
        (["--images", "missing"], "there is nothing at 'missing'"),
        (["--images", str(tmp_path / "q.png"), "--engine", "magic"], "--engine = 'magic'"),
        (["--images", str(tmp_path / "q.png"), "--alpha", "0.001"], "needs at least 999 held-out images"),
        (["--images", str(tmp_path / "q.png"), "--index", str(tmp_path)], "holds no index"),
    ):
        result = CliRunner().invoke(app, [*words, *extra])
        assert isinstance(result.exception, ValueError) and message in str(result.exception), message
