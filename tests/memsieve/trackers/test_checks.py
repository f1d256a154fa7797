"""Results of the commands in offline W&B runs, read back from their files; and what is kept for ``--resume``."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image
from typer.testing import CliRunner

from memsieve.cli import app
from tests.offline_wandb import logged_rows

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "assets" / "tiny-sd"
SECRET = "zebra-of-a-caption"


def logged(folder: Path) -> dict[str, Any]:
    """What the only offline run below ``folder`` logged."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return {name: value for row in logged_rows(file) for name, value in row.items()}


def kind_of(values: dict[str, Any], name: str) -> str:
    return str(values.get(f"{name}/_type") or values[name]["_type"])


def sent(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in (folder / "wandb").rglob("*") if file.is_file())


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=code != 0)
    assert result.exit_code == code or code == 2, result.output
    return f"{result.output} {result.exception}"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # whoever is logged in on this machine
    monkeypatch.setenv("WANDB_SILENT", "true")


def shards(folder: Path, first: int, count: int) -> Path:
    folder.mkdir(parents=True)
    with webdataset.TarWriter(str(folder / "00000.tar")) as tar:
        for i in range(count):
            pixels = np.random.default_rng(first + i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(stream, "PNG")
            tar.write({"__key__": f"{first + i:03d}", "png": stream.getvalue(), "txt": f"{SECRET} {i}".encode()})
    return folder


def test_detect_goes_to_an_offline_run_without_prompts(tmp_path: Path) -> None:
    prompts, ordinary = tmp_path / "p.txt", tmp_path / "o.txt"
    prompts.write_text(f"{SECRET}\nred apple\n\ngreen tree\n", encoding="utf-8")
    ordinary.write_text("\n".join(f"thing {i}" for i in range(9)), encoding="utf-8")
    words = ["detect", "--model", str(TINY), "--prompts", str(prompts), "--ordinary", str(ordinary),
             "--false-positive-rate", "0.1", "--device", "cpu", "--wandb", "checks"]  # fmt: skip
    run(*words, "--out", str(tmp_path / "a"))
    values = logged(tmp_path / "a")
    assert (values["detect/read"], values["detect/scored"], values["detect/failed"]) == (4, 3, 1)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert values["detect/threshold"] == pytest.approx(summary["threshold"])
    assert kind_of(values, "detect/scores") == "histogram"
    assert SECRET.encode() not in sent(tmp_path / "a"), "prompts stay here"
    run(*words, "--out", str(tmp_path / "b"), "--wandb-samples")
    assert SECRET.encode() in sent(tmp_path / "b")


def test_verify_and_probe_go_to_offline_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, held = shards(tmp_path / "train", 0, 6), shards(tmp_path / "held_out", 100, 20)
    run("index", "--data", str(train), "--held-out", str(held), "--out", str(tmp_path / "index"))
    prompts, out = tmp_path / "p.txt", tmp_path / "v"
    prompts.write_text("red apple\ngreen tree\n", encoding="utf-8")
    words = ["verify", "--index", str(tmp_path / "index"), "--model", str(TINY), "--prompts", str(prompts),
             "--steps", "2", "--device", "cpu", "--out", str(out)]  # fmt: skip
    run(*words, "--wandb", "checks")
    values = logged(out)
    assert (values["verify/read"], values["verify/compared"], values["verify/failed"]) == (2, 2, 0)
    assert values["verify/copies"] in (0, 1, 2) and SECRET.encode() not in sent(out)
    before = (out / "matches.json").read_text()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is left to draw")

    monkeypatch.setattr("memsieve.inference.resume.generate", never)
    run(*words, "--resume")
    assert (out / "matches.json").read_text() == before
    assert "another steps" in run(*[*words[:8], "3", *words[9:]], "--resume", code=2)


def test_probe_goes_to_an_offline_run_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji

    build_openmoji(tmp_path / "data", DatasetPlan(size=32, plant=["2x3"], limit=240))
    shards = ["--data", str(tmp_path / "data" / "train"), "--held-out", str(tmp_path / "data" / "held_out")]
    words = ["probe", "--model", str(TINY), *shards, "--most", "2", "--images-per-prompt", "1",
             "--steps", "2", "--updates", "1", "--controls", "1", "--attack", "--device", "cpu",
             "--out", str(tmp_path / "o" / "p.json")]  # fmt: skip
    (tmp_path / "o").mkdir()
    run(*words, "--wandb", "checks")
    values = logged(tmp_path / "o")
    assert values["probe/chosen_pairs/attack/generations"] == 2
    assert values["probe/held-out_controls/attack/generations"] == 1
    assert 0 <= values["probe/chosen_pairs/caption/copy_rate"] <= 1
    before = (tmp_path / "o" / "p.json").read_text()
    monkeypatch.setattr(
        "memsieve.inference.copies.attack.attack_embedding", lambda *_: pytest.fail("nothing is left to attack")
    )
    run(*words, "--resume")
    assert (tmp_path / "o" / "p.json").read_text() == before


def test_evaluate_detector_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memorised, ordinary, out = tmp_path / "m.txt", tmp_path / "o.txt", tmp_path / "e.json"
    memorised.write_text("red apple\ngreen tree\n", encoding="utf-8")
    ordinary.write_text("\n".join(f"thing {i}" for i in range(6)), encoding="utf-8")
    words = ["evaluate-detector", "--model", str(TINY), "--memorized", str(memorised), "--ordinary", str(ordinary),
             "--steps", "1,2", "--images-per-prompt", "1", "--schedule-steps", "3",
             "--device", "cpu", "--out", str(out)]  # fmt: skip
    run(*words)
    first, file = json.loads(out.read_text()), out.with_suffix(".measured.jsonl")
    lines = file.read_text().splitlines()
    assert len(lines) == 9
    file.write_text("\n".join(lines[:5]) + "\n" + lines[5][:20])  # stopped in the middle of a line
    run(*words, "--resume")
    again = json.loads(out.read_text())
    assert [(r["steps"], r["auc"]) for r in again["results"]] == [(r["steps"], r["auc"]) for r in first["results"]]
    assert len(file.read_text().splitlines()) == 9
    assert "another settings" in run(*words, "--seed", "1", "--resume", code=2)
