"""The trackers besides W&B, each begun by accelerate here and read back from what it wrote."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig, TrackingConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up
from memsieve.train.tracker_kinds import KINDS, Kind, check_installed

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def tracked(make_config: MakeConfig) -> Callable[..., RunConfig]:
    def make(name: str, **sections: dict[str, Any]) -> RunConfig:
        tracking = {"report_to": [name], "log_every": 1, "histogram_every": 2, "log_samples": True}
        validation = {"prompts": ["pair 1"], "copy_groups": 2, "copy_images": 1, "sampling_steps": 2}
        return make_config(
            tracking=tracking, validation=validation, checkpoint={"every": 2, "export": False}, **sections
        )

    return make


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def test_wandb_true_of_0_1_is_understood() -> None:
    assert TrackingConfig.model_validate({"wandb": True}).report_to == ["wandb"]
    assert TrackingConfig.model_validate({"wandb": False}).report_to == []
    assert TrackingConfig.model_validate({"wandb": True, "report_to": ["tensorboard"]}).report_to == [
        "tensorboard", "wandb",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="report_to"):
        TrackingConfig.model_validate({"report_to": ["paper"]})


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing(Kind):
        package, installs = "no_such_package", "no-such-package"

    monkeypatch.setitem(KINDS, "aim", Missing())
    config = make_config(tracking={"report_to": ["aim"]})
    config.model.path = "no such folder"
    with pytest.raises(SettingsError, match=r"report_to: aim needs .*pip install no-such-package, or leave aim out"):
        set_up(config)
    check_installed(["wandb"])


@needs("tensorboard")
def test_tensorboard_has_scalars_histograms_the_table_and_pictures_and_goes_on(
    tracked: Callable[..., RunConfig],
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tracked("tensorboard", train={"steps": 4, "caption_dropout": 0.0})
    fit(set_up(config))
    config.train.steps = 6
    fit(set_up(config))
    folder = config.output / "trackers" / config.tracking.project
    read = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0, "scalars": 0, "tensors": 0})
    read.Reload()
    tags = read.Tags()
    assert {"train/loss", "mem/dropped_frac", "mem/groups_seen", "val/heldout_loss"} <= set(tags["scalars"])
    assert [event.step for event in read.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    local = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in local if "train/loss" in row]
    assert [event.value for event in read.Scalars("train/loss")] == pytest.approx(losses)
    assert any(re.fullmatch(r"mem/magnitude/t_\d+_\d+", tag) for tag in tags["histograms"])
    assert "val/samples" in tags["images"]
    texts = {tag: read.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags["tensors"]}
    assert "steps: 4" in next(text for tag, text in texts.items() if tag.startswith("config"))
    table = next(text for tag, text in texts.items() if tag.startswith("mem/top_dropped"))
    assert table.startswith("| group | exposures | evidence ")


@needs("mlflow")
@pytest.mark.slow
def test_mlflow_goes_on_with_its_run(
    tracked: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # what needs no database package
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.chdir(tmp_path)
    config = tracked("mlflow", train={"steps": 4, "caption_dropout": 0.0})
    fit(set_up(config))
    config.train.steps = 6
    fit(set_up(config))
    client = mlflow.MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == config.tracking.project]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == config.output.name
    assert sorted({m.step for m in client.get_metric_history(run.info.run_id, "train/loss")}) == [1, 2, 3, 4, 5, 6]
    assert {"config.yaml", "images", "mem"} <= {f.path for f in client.list_artifacts(run.info.run_id)}


@needs("trackio")
@pytest.mark.slow
def test_trackio_goes_on_with_its_run(
    tracked: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trackio.sqlite_storage as storage

    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio")
    config = tracked("trackio", train={"steps": 4, "caption_dropout": 0.0})
    fit(set_up(config))
    config.train.steps = 6
    fit(set_up(config))
    (run,) = storage.SQLiteStorage.get_runs(config.tracking.project)
    rows = storage.SQLiteStorage.get_logs(config.tracking.project, run)
    assert sorted({row["step"] for row in rows if "train/loss" in row}) == [1, 2, 3, 4, 5, 6]
    names = set().union(*rows)
    assert {"val/samples", "mem/top_dropped"} <= names
    assert any(name.startswith("mem/magnitude/t_") for name in names)


@needs("swanlab")
@pytest.mark.slow
def test_swanlab_is_begun_on_this_machine(tracked: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    config = tracked("swanlab", train={"steps": 3, "caption_dropout": 0.0})
    fit(set_up(config))
    assert any((config.output / "trackers" / "swanlab").rglob("*"))


@needs("dvclive")
@pytest.mark.slow
def test_dvclive_goes_on_with_its_files(
    tracked: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tracked("dvclive", train={"steps": 4, "caption_dropout": 0.0})
    fit(set_up(config))
    config.train.steps = 6
    fit(set_up(config))
    file = config.output / "trackers" / "dvclive" / "plots" / "metrics" / "train" / "loss.tsv"
    steps = [int(line.split("\t")[0]) for line in file.read_text().splitlines()[1:]]
    assert sorted(set(steps)) == [1, 2, 3, 4, 5, 6]
