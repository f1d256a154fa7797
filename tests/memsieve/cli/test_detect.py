"""``memsieve detect``: files left behind, resuming, and sentences for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.inference.generate import load_pipeline
from tests.memsieve.cli.on_the_base import BASE, ROOT, invoke


def test_detect_leaves_everything_behind(lists: tuple[Path, Path], tmp_path: Path) -> None:
    prompts, ordinary = lists
    out = tmp_path / "out"
    arguments = ["detect", *BASE, "--prompts", prompts, "--ordinary", ordinary, "--false-positive-rate", 0.2]
    text = invoke(*arguments, "--out", out, "--steps", 2, "--per-step")
    assert "5 read = 4 scored + 1 failed" in text and "line 2: the prompt is empty" in text
    assert ":cat: [bold]x[/bold] <b>y</b>" in text, "neither markup nor emoji"
    assert text.count(" x") < 150 and "…" in text and "cut off" in text, "a long prompt does not flood the table"
    rows = pq.read_table(out / "scores.parquet").to_pylist()
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 5] and all(len(rows[i]["per_step"]) == 2 for i in (0, 2, 3, 4))
    assert rows[0]["score"] > 0 and rows[1]["error"] and rows[1]["score"] is None
    assert Image.open(out / "histogram.png").size[0] > 500
    assert json.loads((out / "summary.json").read_text())["read"] == 5

    # cut in the middle of a line, as a kill would leave it: only what is missing is measured, the result is the same
    lines = (out / "scores.jsonl").read_bytes().splitlines(keepends=True)
    (out / "scores.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    invoke(*arguments, "--out", out, "--steps", 2, "--per-step", "--resume")
    again = pq.read_table(out / "scores.parquet").to_pylist()
    for row in [*rows, *again]:
        row.pop("seconds")
    assert [row["line"] for row in again] == [1, 2, 3, 4, 5]
    for before, after in zip(rows, again, strict=True):
        assert after["score"] == (pytest.approx(before["score"], rel=1e-4) if before["score"] else None)
    assert (out / "scores.jsonl").read_bytes().splitlines(keepends=True)[:3] == lines[:3], "kept as they were"

    result = CliRunner().invoke(app, [str(w) for w in [*arguments, "--out", out, "--steps", 2, "--per-step"]])
    assert isinstance(result.exception, ValueError) and "add --resume" in str(result.exception)
    result = CliRunner().invoke(app, [str(w) for w in [*arguments, "--out", out, "--steps", 1, "--resume"]])
    assert "was begun with another settings, per_step" in str(result.exception)


def test_early_exit_on_a_list(lists: tuple[Path, Path], tmp_path: Path) -> None:
    """Every prompt leaves where the ordinary ones are weaker than all of the list; a resumed run ends the same."""
    prompts, _ = lists
    weak = tmp_path / "weak.txt"
    weak.write_text("red apple\nblue car\nx\ny\n")
    out = tmp_path / "out"
    arguments = ["detect", *BASE, "--prompts", prompts, "--ordinary", weak, "--false-positive-rate", 0.4, "--steps", 5,
                 "--early-exit", "--per-step", "--out", out]  # fmt: skip
    text = invoke(*arguments)
    rows = pq.read_table(out / "scores.parquet").to_pylist()
    scored = [row for row in rows if row["error"] is None]
    assert all(len(row["per_step"]) == row["steps"] for row in scored)
    assert all(row["steps"] == 5 for row in scored if not row["flagged"])
    mean = sum(row["steps"] for row in scored) / len(scored)
    assert f"{mean:.3g} of 5 steps each" in text
    reference = (out / "reference.jsonl").read_bytes()
    (out / "reference.jsonl").write_bytes(reference[: len(reference) // 2])
    (out / "scores.jsonl").write_bytes((out / "scores.jsonl").read_bytes().splitlines(keepends=True)[0])
    invoke(*arguments, "--resume")
    again = pq.read_table(out / "scores.parquet").to_pylist()
    for before, after in zip(rows, again, strict=True):
        assert after["steps"] == before["steps"] and after["flagged"] == before["flagged"]
        assert after["p"] == before["p"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--guidance-scale", "1"], "--guidance-scale = 1: must be above 1"),
        (["--dtype", "int8"], "--dtype = 'int8'"),
        (["--false-positive-rate", "0"], "must lie between 0 and 1"),
        (["--prompts", "missing.txt"], "there is no file 'missing.txt'"),
        (["--model", "missing"], "holds no diffusers pipeline"),
        (["--batch", "0"], "--batch = 0"),
    ],
)
def test_bad_input_is_one_sentence(lists: tuple[Path, Path], tmp_path: Path, words: list[str], message: str) -> None:
    base = ["detect", *BASE, "--prompts", str(lists[0]), "--ordinary", str(lists[1]), "--false-positive-rate", "0.2"]
    result = CliRunner().invoke(app, [*base, "--out", str(tmp_path / "o"), *words])
    assert isinstance(result.exception, ValueError) and message in str(result.exception)


def test_beside_its_base_a_model_is_judged_by_how_far_it_went(lists: tuple[Path, Path], tmp_path: Path) -> None:
    """A run's pipeline names its base; nothing has to be said."""
    prompts, ordinary = lists
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(f"model: {{path: {ROOT / 'assets' / 'tiny-sd'}}}\n")
    pipe = load_pipeline(ROOT / "assets" / "tiny-sd")
    with torch.no_grad():
        pipe.unet.conv_out.bias.add_(0.5)
    pipe.save_pretrained(run / "pipeline")
    common = ["--prompts", prompts, "--ordinary", ordinary, "--false-positive-rate", 0.2, "--schedule-steps", 10]
    text = invoke("detect", "--model", run / "pipeline", *common, "--out", tmp_path / "found")
    assert "drift, highest first" in text and "without the model before" not in text
    rows = pq.read_table(tmp_path / "found" / "scores.parquet").to_pylist()
    # The same bias at every pixel: epsilon is off by it.
    assert [row["score"] for row in rows if row["error"] is None] == pytest.approx([0.5] * 4, rel=1e-3)
    text = invoke("detect", "--model", run / "pipeline", *common, "--base", "none", "--out", tmp_path / "alone")
    assert "magnitude, highest first" in text and "without the model before" not in text
    (run / "config.yaml").unlink()
    text = invoke("detect", "--model", run / "pipeline", *common, "--out", tmp_path / "unknown")
    assert "magnitude, highest first" in text
    said = " ".join(text.split())
    assert "without the model before fine-tuning a prompt is judged by the model's own two branches" in said
    named = ["--base", ROOT / "assets" / "tiny-sd", "--detector", "against_base", "--steps", 2]
    text = invoke("detect", "--model", run / "pipeline", *common, *named, "--out", tmp_path / "named")
    assert "against_base, highest first" in text


def test_a_detector_that_needs_a_base_says_so_before_anything_is_loaded(
    lists: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ["detect", "--model", tmp_path / "nowhere", "--prompts", lists[0], "--detector", "drift", "--base", "none"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert "--detector drift compares with the model before fine-tuning: name it with --base" in str(result.exception)
