"""An audit in which no sample can be used: the exit code says so, and the sentence why."""

from __future__ import annotations

from pathlib import Path

import webdataset
from typer.testing import CliRunner

from memsieve.cli import app
from tests.memsieve.auditing import run
from tests.train.conftest import picture, save_tiny_model


def folder_of(root: Path, count: int) -> Path:
    root.mkdir()
    for number in range(count):
        (root / f"{number:02d}.png").write_bytes(picture(number))
    return root


def test_no_usable_sample_ends_with_exit_code_4(tmp_path: Path) -> None:
    data, out = folder_of(tmp_path / "data", 12), tmp_path / "audit"
    words = ("score", "--data", data, "--format", "folder", "--data-only", "--out", out)
    why = "no sample of 12 can be used (no_caption 12); the first: '00': the sample has no caption"
    for again in range(2):
        result = run(*words)
        assert result.exit_code == 4, (again, result.output)
        assert why in result.output.replace("\n", " ")
    assert run("status", out).exit_code == 4 and why in run("status", out).output.replace("\n", " ")
    assert run("report", out).exit_code == 4
    assert "No sample of 12 can be used" in (out / "report.html").read_text()
    keep = tmp_path / "keep.parquet"
    result = run("select", out, "--dedup", "--out", keep)
    assert result.exit_code == 4 and "nothing is kept" in result.output and keep.is_file()
    (data / "03.txt").write_text("a caption")
    assert run(*words).exit_code == 0
    assert (run("status", out).exit_code, run("report", out).exit_code) == (0, 0)
    assert run("select", out, "--dedup", "--out", keep).exit_code == 0


def test_a_model_changes_nothing_about_it(tmp_path: Path) -> None:
    tiny_model = save_tiny_model(tmp_path / "model")
    data, out = folder_of(tmp_path / "data", 3), tmp_path / "audit"
    result = run("score", "--data", data, "--format", "folder", "--model", tiny_model, "--out", out)
    assert result.exit_code == 4, result.output
    assert run("report", out).exit_code == 4


def test_verify_of_images_none_of_which_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with webdataset.TarWriter(str(tmp_path / "shards" / "0.tar")) as tar:
        tar.write({"__key__": "a", "png": picture(1), "txt": b"x"})
    words = ["index", "--data", str(tmp_path / "shards"), "--out", str(tmp_path / "index")]
    assert CliRunner().invoke(app, words).exit_code == 0
    (tmp_path / "images" / ".thumbnails").mkdir(parents=True)
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    (tmp_path / "images" / ".thumbnails" / "b.png").write_bytes(picture(1))
    words = ["verify", "--index", str(tmp_path / "index"), "--images", str(tmp_path / "images")]
    for good in (False, True):
        result = CliRunner().invoke(app, [*words, "--threshold", "0.1", "--out", str(tmp_path / f"out-{good}")])
        assert (result.exit_code == 0) is good, result.output
        assert good or "none of the 1 images could be compared" in str(result.exception)
        said = "2 read = 1 compared + 1 failed" if good else "1 read = 0 compared + 1 failed"
        assert said in result.output
        (tmp_path / "images" / "b.png").write_bytes(picture(1))
