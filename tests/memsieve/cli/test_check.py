"""``memsieve check RUN``: the data in any of its formats, read from the run; the page's path, and what is refused."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset
import yaml
from PIL import Image
from typer.testing import CliRunner

from memsieve.cli import app
from tests.inference.copies.pictures import picture

FAST = ["--drawings", "2", "--steps", "2"]
HOSTILE = "<script>alert(1)</script> cat"


def as_folder(folder: Path, pairs: list[tuple[int, str]]) -> None:
    folder.mkdir(parents=True)
    for number, caption in pairs:
        (folder / f"{number:03d}.png").write_bytes(picture(number))
        (folder / f"{number:03d}.txt").write_text(caption)


def as_hf(folder: Path, pairs: list[tuple[int, str]]) -> None:
    import datasets

    images = [Image.open(io.BytesIO(picture(number))) for number, _ in pairs]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": images, "text": [caption for _, caption in pairs]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder))


def as_shards(folder: Path, pairs: list[tuple[int, str]]) -> None:
    folder.mkdir(parents=True)
    with webdataset.TarWriter(str(folder / "0.tar")) as tar:
        for number, caption in pairs:
            tar.write({"__key__": f"{number:03d}", "png": picture(number), "txt": caption})


FORMATS: dict[str, Callable[[Path, list[tuple[int, str]]], None]] = {
    "folder": as_folder, "hf": as_hf, "webdataset": as_shards,
}  # fmt: skip


@pytest.mark.parametrize("kind", list(FORMATS))
def test_all_is_read_from_the_run(kind: str, tuned_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tuned_run, tmp_path / "run")
    FORMATS[kind](tmp_path / "train", [*((number, f"thing {number}") for number in range(3)), (3, HOSTILE)])
    FORMATS[kind](tmp_path / "held_out", [(number, f"thing {number}") for number in range(100, 103)])
    raw: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    raw["data"] = {"format": kind, "path": str(tmp_path / "train"), "held_out_path": str(tmp_path / "held_out")}
    raw |= {"data": raw["data"] | {"resolution": 32}, "filter": {"copy_rate": 0.3}}
    (run / "config.yaml").write_text(yaml.safe_dump(raw))
    done = CliRunner().invoke(app, ["check", str(run), *FAST])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    said, page = done.output.strip().splitlines()[-2:]
    assert "of 4 pairs come back as their own picture oftener than in 30.0% of drawings" in said
    assert page == str(run / "check" / "check.html")
    told = json.loads((run / "check" / "check.json").read_text())
    assert {row["caption"] for row in told["table"]} == {"thing 0", "thing 1", "thing 2", HOSTILE}
    assert told["held_out"] == 3 and told["base"] == raw["model"]["path"] and told["model"] == str(run / "pipeline")
    text = Path(page).read_text()
    assert "<script" not in text and "&lt;script&gt;" in text


@pytest.mark.parametrize("kind", [*FORMATS, "tar"])
def test_any_model_is_asked_about_data_of_any_kind(kind: str, tuned_run: Path, tmp_path: Path) -> None:
    FORMATS["webdataset" if kind == "tar" else kind](tmp_path / "train", [(n, f"thing {n}") for n in range(4)])
    data, out = tmp_path / "train" / ("0.tar" if kind == "tar" else ""), tmp_path / "out"
    words = ["check", "--model", str(tuned_run / "pipeline"), "--data", str(data), "--out", str(out), *FAST]
    done = CliRunner().invoke(app, [*words, "--copy-rate", "0.3"])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    told = json.loads((out / "check.json").read_text())
    assert {row["caption"] for row in told["table"]} == {f"thing {n}" for n in range(4)} and told["run"] is None
    assert told["base"] and told["held_out"] == 0 and done.output.strip().endswith(str(out / "check.html"))
    assert "What to do next" in (out / "check.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a run's folder, or --model together with the --data"),
        (["--model", "{model}"], "name a run's folder, or --model together with the --data"),
        (["{run}", "--data", "{run}"], "--data: a run's folder says it already"),
        (["--model", "{model}", "--data", "{run}/none"], "--data: there is nothing at '.*none'; name shards"),
        (["--model", "{model}", "--data", "{run}", "--format", "zip"], "--format = 'zip': must be one of webdataset"),
        (["--model", "{model}", "--data", "{run}", "--base", "none"], "--base, or pairs .* with --held-out"),
        (["--model", "{model}", "--data", "{run}", "--copy-rate", "2"], "--copy-rate = 2.0: must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(words: list[str], message: str, tuned_run: Path) -> None:
    named = [word.format(run=tuned_run, model=tuned_run / "pipeline") for word in words]
    done = CliRunner().invoke(app, ["check", *named])
    assert isinstance(done.exception, ValueError) and re.search(message, str(done.exception)), repr(done.exception)


def test_what_is_no_run_is_refused_with_what_to_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert isinstance(done.exception, ValueError) and "name its output folder" in str(done.exception)
