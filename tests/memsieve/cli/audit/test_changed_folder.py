"""An audit of an image folder that has other pictures now: what is said, and that the way out works."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.filtering.settings import SettingsError
from tests.train.conftest import picture


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(number))
        (folder / f"{number}.txt").write_text("x")
    return folder


@pytest.mark.parametrize("now", [3, 5])
def test_a_folder_that_has_other_pictures_now_is_scored_anew(tmp_path: Path, now: int) -> None:
    folder, audit = pictures(tmp_path / "photos", 4), str(tmp_path / "audit")
    score = ["audit", "score", "--data", str(folder), "--format", "folder", "--data-only", "--out", audit]
    run = CliRunner().invoke
    assert run(app, score).exit_code == 0
    if now < 4:
        (folder / "3.png").unlink()
    else:
        pictures(folder, now)
    select = ["audit", "select", audit, "--dedup", "--out", str(tmp_path / "keep.parquet")]
    status = run(app, ["audit", "status", audit])
    assert status.exit_code == 1 and "the data changed since it was scored" in " ".join(status.output.split())
    refused = run(app, select)
    assert refused.exit_code != 0 and "audit score" in f"{refused.output} {refused.exception}"
    again = run(app, score)
    assert isinstance(again.exception, SettingsError)
    assert "the data has other rows now: score all of it anew with --rescore" in str(again.exception)
    assert run(app, [*score, "--rescore"]).exit_code == 0
    assert run(app, ["audit", "status", audit]).exit_code == 0
    done = run(app, select)
    assert done.exit_code == 0, done.output
