"""``memsieve init``: what it says of a folder, and a config that the trainer takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.filtering.settings import load_settings
from memsieve.train.config import RunConfig
from tests.inference.copies.pictures import picture


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my pictures").mkdir()
    return tmp_path


def write(folder: Path, count: int, caption: str = "thing {}") -> None:
    for number in range(count):
        (folder / f"{number:02d}.png").write_bytes(picture(number, 300))
        (folder / f"{number:02d}.txt").write_text(caption.format(number))


def init(*words: str) -> str:
    done = CliRunner().invoke(app, ["init", *words])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.output


def test_it_says_what_is_there_and_writes_a_config(here: Path) -> None:
    write(here / "my pictures", 12)
    (here / "my pictures" / "bare.png").write_bytes(picture(99))
    said = init("my pictures", "--model", "some/model")
    assert "folder: 12 pictures with captions, 12 different ones" in said
    assert "without a caption 1, unreadable 0" in said and "shorter side 300 to 300 pixels: trained at 256" in said
    assert "held out: 3 pictures" in said
    assert "wrote my pictures.yaml; next: memsieve train 'my pictures.yaml'" in said
    text = (here / "my pictures.yaml").read_text()
    config = load_settings(RunConfig, here / "my pictures.yaml", [])
    assert config.model.path == "some/model" and config.model.lora is not None and config.filter.rule == "recall"
    assert config.data.max_bad == 1 and config.data.resolution == 256 and text.count("# ") >= 5
    assert yaml.safe_load(text)["output"] == "runs/my pictures"


def test_one_caption_for_all_is_told(here: Path) -> None:
    write(here / "my pictures", 6, "sks dog")
    assert "one caption for all" in init("my pictures")


def test_all_weights_where_it_is_asked(here: Path) -> None:
    write(here / "my pictures", 6)
    init("my pictures", "--full", "--out", "full.yaml")
    assert load_settings(RunConfig, here / "full.yaml", []).model.lora is None


def test_no_file_is_written_over(here: Path) -> None:
    write(here / "my pictures", 6)
    (here / "my pictures.yaml").write_text("mine")
    done = CliRunner().invoke(app, ["init", "my pictures"])
    assert isinstance(done.exception, ValueError) and "exists; remove it, or name another" in str(done.exception)
    assert (here / "my pictures.yaml").read_text() == "mine"


def test_a_folder_without_captions_is_refused_with_the_way_out(here: Path) -> None:
    (here / "my pictures" / "a.png").write_bytes(picture(1))
    done = CliRunner().invoke(app, ["init", "my pictures"])
    assert "holds 0 different pictures with a caption, 1 without one" in str(done.exception)
    assert "as NAME.txt beside NAME.png" in str(done.exception)
