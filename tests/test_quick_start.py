"""The quick start, read from its page and run from an empty folder: pictures, config, training, report, check."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.filtering.data.openmoji.names import list_emoji
from memsieve.filtering.data.openmoji.pictures import draw_pictures

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "quick-start.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S) for line in block.splitlines() if line.strip()]


def test_the_page_shows_the_whole_way() -> None:
    assert [shlex.split(line)[:2] for line in LINES] == [
        ["memsieve", "init"], ["memsieve", "train"], ["memsieve", "report"], ["memsieve", "check"],
    ]  # fmt: skip


@pytest.mark.slow
def test_the_page_works_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiny model, few steps and small drawings; the rest is as printed."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    pictures, _ = draw_pictures(list_emoji()[:: len(list_emoji()) // 12][:12], 48, True, None)
    for number, picture in enumerate(pictures):
        (folder / f"{number:02d}.png").write_bytes(picture.png)
        (folder / f"{number:02d}.txt").write_text(picture.caption)
    few = {
        "init": ["--model", str(ROOT / "assets" / "tiny-sd")],
        "train": ["--set", "train.steps=24", "--set", "train.threads=1", "--set", "optimizer.lr=1e-3"],
        "check": ["--drawings", "2", "--steps", "4"],
    }
    said = []
    for line in LINES:
        words = [word for word in shlex.split(line)[1:] if "stable-diffusion" not in word and word != "--model"]
        result = CliRunner().invoke(app, [*words, *few.get(words[0], [])])
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
        said.append(result.output)
    assert "12 pictures with captions" in said[0].replace("\n", " ") or "pictures with captions" in said[0]
    written = yaml.safe_load((tmp_path / "pictures.yaml").read_text())
    assert written["data"]["resolution"] == 32 and written["filter"] == {"policy": "retire"}
    run = tmp_path / "runs" / "pictures"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["overfitting"] in (True, False) and summary["copies"] in (True, False)
    assert summary["use"]["why"] and f"use runs/pictures/{summary['use']['folder']}" in said[1].replace("\n", "")
    report = (run / "report.html").read_text()
    assert "Pairs that come back" in report and "All other pairs" in report
    assert report.count("what the model draws for it at the end") >= 8 and "comes back in " in report
    assert "It does not copy." in report or "It copies." in report
    check = json.loads((run / "check" / "check.json").read_text())
    assert check["pairs"] == len(check["table"]) >= 8 and check["copy_rate"]["generations"] == 2 * check["pairs"]
    assert "come back as their own picture oftener than in 1.0% of drawings" in said[3]
