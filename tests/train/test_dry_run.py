"""A rehearsal: all of a run is built, one window is measured, and nothing of it stays."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memsieve.train.config import RunConfig
from memsieve.train.dry_run import dry_run
from tests.train.conftest import picture
from tests.train.test_command import train

MakeConfig = Callable[..., RunConfig]


def test_dry_run_prints_the_config_and_keeps_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    code, said = train(config, tmp_path, "--dry-run", "--set", "optimizer.lr=2e-4")
    assert code == 0 and "lr: 0.0002" in said and "magnitude: median" in said and "24 held-out pairs" in said
    assert not config.output.exists()


def test_all_that_a_run_would_do_beside_training_is_left_out(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache, W&B, and what an earlier run left in the folder, which is no start from its checkpoint either."""
    cached = {"cache": str(tmp_path / "cache"), "batch_size": 4, "accumulation": 2}
    config = make_config(train=cached, filter={"enabled": False}, tracking={"report_to": ["wandb"]})
    monkeypatch.setitem(sys.modules, "wandb", None)  # whoever asks for it fails
    config.output.mkdir()
    (config.output / "metrics.jsonl").write_text(json.dumps({"step": 3}))
    before = sorted(tmp_path.rglob("*"))
    said = dry_run(config)
    assert said.splitlines()[0] == "6 steps of 4 x 2 x 1 samples, 4 streams, 24 held-out pairs"
    assert "median" not in said, "without the filter nothing is measured"
    assert said.splitlines()[-1].startswith("engine: single") and said.endswith("1 rank(s)")
    assert sorted(tmp_path.rglob("*")) == before
    assert (config.train.cache, config.tracking.report_to) == (tmp_path / "cache", ["wandb"]), (
        "the config is the caller's"
    )


def test_a_rehearsal_that_fails_leaves_no_folder(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(filter={"false_drop_rate": 0.01})
    with pytest.raises(ValueError, match="needs at least 99 held-out groups"):
        dry_run(config)
    assert not list(tmp_path.iterdir())


def test_dry_run_reads_all_captions_and_says_what_would_stop_the_run(make_config: MakeConfig, tmp_path: Path) -> None:
    """The way of a folder with one caption missing: told by --dry-run, and before the first step of the run."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(24):
        (folder / f"{number:02d}.png").write_bytes(picture(number))
        (folder / f"{number:02d}.txt").write_text(f"photo {number}")
    (folder / "17.txt").unlink()
    data = {"path": str(folder), "format": "folder", "held_out_path": None, "held_out_fraction": 0.0}
    config = make_config(data=data, filter={"enabled": False}, train={"steps": 1})
    code, said = train(config, tmp_path, "--dry-run")
    assert code == 2 and "24 samples to train on, 1 of them unusable" in said
    assert "1 of 24 samples of data.path cannot be used ('17': " in said and "set data.max_bad: 1" in said
    code, said = train(config, tmp_path)
    assert "warning: 1 of 24 samples" in said and said.index("warning: 1 of 24") < said.index("training")
    config.data.max_bad = 1
    code, said = train(config, tmp_path, "--dry-run")
    assert code == 0, said


def test_a_path_beside_the_config_is_offered(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "elsewhere").mkdir()
    data = {"path": "photos", "format": "folder", "held_out_path": None, "held_out_fraction": 0.0}
    config = make_config(data=data, filter={"enabled": False})
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, said = train(config, tmp_path, "--dry-run")
    assert code == 2 and "set data.path: " in said and f"{tmp_path}/photos" in said
