"""The command as a person runs it: sentences and exit codes, dry run, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.train.config import RunConfig

MakeConfig = Callable[..., RunConfig]
runner = CliRunner()


def written(config: RunConfig, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def train(config: RunConfig, tmp_path: Path, *options: str) -> tuple[int, str]:
    result = runner.invoke(app, ["train", str(written(config, tmp_path / "c.yaml")), *options])
    return result.exit_code, " ".join((result.output + (result.stderr or "")).split())


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("filter.polcy=drop", "unknown key 'filter.polcy'; did you mean 'policy'?"),
        ("train.batchsize=8", "did you mean 'batch_size'?"),
        ("filter.threshold=-1", "'filter.threshold' = -1"),
        ("data.path=nowhere/{00..03}.tar", "nowhere"),
        ("model.path=nowhere", "model.path"),
        ("data.resolution=15", "data.resolution: 15 must be a multiple of 2"),
        ("filter.false_drop_rate=0.01", "needs at least 99 held-out groups"),
    ],
)
def test_a_wrong_setting_gets_a_sentence(make_config: MakeConfig, tmp_path: Path, option: str, sentence: str) -> None:
    code, said = train(make_config(), tmp_path, "--set", option)
    assert code == 2 and sentence in said and "Traceback" not in said


def test_a_model_folder_without_a_unet(make_config: MakeConfig, tmp_path: Path, tiny_model: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    shutil.rmtree(broken / "unet")
    code, said = train(make_config(), tmp_path, "--set", f"model.path={broken}")
    assert code == 2 and "has no unet/ folder" in said


@pytest.mark.parametrize("name", ["caption-less", "undecodable"])
def test_a_damaged_sample_is_named_or_counted(
    make_config: MakeConfig, make_shards: Callable[..., Path], tmp_path: Path, name: str, good_png: bytes
) -> None:
    members = {"zzz.png": good_png} if name == "caption-less" else {"zzz.png": b"\x89PNG broken", "zzz.txt": b"words"}
    folder = make_shards(tmp_path / "data", 60)
    with tarfile.open(folder / "00003.tar", "a") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    strict = make_config("strict", data={"path": str(folder)}, train={"epochs": 1, "steps": None})
    code, said = train(strict, tmp_path)
    assert code == 1 and "data.max_bad is 0" in said and "zzz" in said
    tolerant = make_config("tolerant", data={"path": str(folder), "max_bad": 1}, train={"epochs": 2, "steps": None})
    code, said = train(tolerant, tmp_path)
    assert code == 0
    summary = json.loads((tolerant.output / "summary.json").read_text())
    assert summary["read"] == 122 and summary["remainder"] == 0
    assert sum(summary["failed"].values()) == 2, "one sample, met once an epoch, is within max_bad: 1"


def test_an_empty_shard_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "00000.tar").touch()
    code, said = train(make_config(data={"path": str(tmp_path / "empty")}), tmp_path)
    assert code == 2 and "00000.tar" in said


def test_ctrl_c_saves_and_the_same_command_goes_on(make_config: MakeConfig, tmp_path: Path) -> None:
    """Under a scheduler: each process of the job is signalled, loader workers too, and more than once."""
    config = make_config(train={"steps": 400}, data={"workers": 2})
    command = [sys.executable, "-m", "memsieve.train", str(written(config, tmp_path / "c.yaml"))]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        command, cwd=root, env=os.environ, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not (config.output / "metrics.jsonl").exists() or not (config.output / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline and process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        os.killpg(process.pid, number)
    assert process.wait(timeout=60) == 130, process.stderr and process.stderr.read()
    saved = sorted((config.output / "checkpoints").glob("step-*"))
    assert len(saved) == 1
    step = int(saved[0].name.removeprefix("step-"))
    assert 0 < step < 400
    config.train.steps = step + 2
    done = subprocess.run([*command[:3], str(written(config, tmp_path / "c.yaml"))], cwd=root, check=False,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((config.output / "summary.json").read_text())["steps"] == step + 2
    again = runner.invoke(app, ["train", str(tmp_path / "c.yaml")])
    assert again.exit_code == 0 and "is complete" in " ".join((again.output + again.stderr).split())
