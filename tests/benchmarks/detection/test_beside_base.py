"""Detection with and without the base, from beginning to end on tiny models, and its page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.detection import beside_base
from benchmarks.detection.beside_base_page import write_page
from benchmarks.detection.data import Bench
from memsieve.inference.detect.detectors import DETECTORS
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.generate import load_pipeline
from memsieve.inference.opened import open_model
from memsieve.inference.step import MEASURES
from tests.inference.tuned import moved


@pytest.fixture(scope="module")
def tuned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("checks") / "tuned"
    moved(load_pipeline(model)).save_pretrained(out, safe_serialization=True)
    return out


@pytest.fixture
def options(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a run of seconds; the threads that the command sets for its process are put back."""
    monkeypatch.setattr(beside_base, "SETTINGS", replace(beside_base.SETTINGS, schedule_steps=2))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return {
        "base": [model], "out": tmp_path, "page": tmp_path / "page.md", "kept": tmp_path / "kept", "ordinary": 6,
        "batch": 16,
    }  # fmt: skip


def test_what_is_measured_exists() -> None:
    assert set(beside_base.DETECTORS_MEASURED) <= DETECTORS.keys()
    needed = {name for detector in beside_base.DETECTORS_MEASURED for name in DETECTORS[detector].measures}
    assert needed == set(MEASURES), "one measurement of a prompt serves all detectors"


def test_one_measurement_serves_every_detector(tuned: Path, model: Path) -> None:
    opened = open_model(tuned, base=str(model))
    settings = replace(beside_base.SETTINGS, schedule_steps=4, steps=2, images_per_prompt=2)
    (all_of_it,) = measure_prompts(opened, ["cat"], settings, measures=MEASURES)
    for name in MEASURES:
        (alone,) = measure_prompts(opened, ["cat"], replace(settings, detector=name))
        assert np.allclose(all_of_it.per_step[name], alone.per_step[name], rtol=1e-4)


@pytest.mark.slow
def test_pairs_that_copy_are_evaluated_cell_by_cell_and_resumed(
    tuned: Path, model: Path, data: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model copies nothing: that two of its pairs do is said for it, what is measured of them is real."""

    def said(bench: Any) -> dict[str, float]:
        return {pair.caption: float(place < 2) for place, pair in enumerate(bench.planted)}

    monkeypatch.setattr(beside_base, "copies", said)
    beside_base.main([tuned], [data], ["tiny"], **options)
    file = options["out"] / "checks-tiny.json"
    found = json.loads(file.read_text())
    assert len(found["cells"]) == 2 * len(beside_base.DETECTORS_MEASURED)
    assert [(r["steps"], r["images_per_prompt"]) for r in found["cells"]["drift, train"]] == [
        (1, 1), (1, 4), (2, 1), (2, 4),
    ]  # fmt: skip
    assert all(row["memorized"] == 2 and row["ordinary"] == 6 for rows in found["cells"].values() for row in rows)
    lost = found["cells"].pop("drift, held_out")
    file.write_text(json.dumps(found))
    monkeypatch.setattr(beside_base, "measure_prompts", lambda *a, **k: iter(pytest.fail("all is kept") for _ in a[1]))
    beside_base.main([tuned], [data], ["tiny"], **options)
    again = json.loads(file.read_text())["cells"]["drift, held_out"]
    assert [row["auc"] for row in again] == [row["auc"] for row in lost]
    page = (options["page"]).read_text()
    assert "2 of 3 of `tiny`" in page and "**not enough**" in page and "| `against_base` | 6 other training" in page


def test_a_model_that_copies_nothing_says_so(
    tuned: Path, data: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tuned, data, 1)
    drawn = beside_base.copies(bench)
    assert list(drawn) == [pair.caption for pair in bench.planted] and all(0 <= rate <= 1 for rate in drawn.values())
    monkeypatch.setattr(beside_base, "copies", lambda bench: dict.fromkeys(drawn, 0.0))
    beside_base.main([tuned], [data], ["plain"], **options)
    assert "cannot be measured" in options["page"].read_text() and "0 of 3 of `plain`" in options["page"].read_text()


def test_each_model_needs_its_data_name_and_base(tuned: Path, data: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1 --model, 2 --data, 1 --name: each model needs one of each"):
        beside_base.main([tuned], [data, data], ["a"], **options)
    with pytest.raises(ValueError, match="1 --base for 2 --model: give one for each, or none"):
        beside_base.main([tuned] * 2, [data] * 2, ["a", "b"], **options)
    with pytest.raises(ValueError, match="does not say what it was fine-tuned from; name it"):
        beside_base.main([tuned], [data], ["a"], **{**options, "base": None})


def test_the_page_says_whether_the_aims_are_met(tmp_path: Path) -> None:
    def row(steps: int, auc: float, tpr: float) -> dict[str, Any]:
        told = {"value": auc, "low": auc, "high": auc}, {"value": tpr, "low": tpr, "high": tpr}
        return {"steps": steps, "images_per_prompt": 1, "auc": told[0], "tpr": told[1], "ordinary": 300,
                "seconds_per_prompt": 0.1}  # fmt: skip

    for name in ("a", "b"):
        cells = {
            "magnitude, held_out": [row(1, 0.5, 0.0), row(20, 0.4, 0.0)],
            "drift, held_out": [row(1, 0.96, 0.7), row(20, 0.99, 0.7 if name == "b" else 0.9)],
        }
        part = {
            "asked": {"settings": {"schedule_steps": 20, "guidance_scale": 3.0}}, "plant": ["12x400"],
            "copies": {str(i): 0.5 for i in range(12)}, "cells": cells, "seconds_per_generation": 1.0,
        }  # fmt: skip
        (tmp_path / f"checks-{name}.json").write_text(json.dumps(part))
    write_page(tmp_path / "p.md", tmp_path)
    page = (tmp_path / "p.md").read_text()
    assert "Measured: 24 and 300, enough." in page
    assert "first step: AUC 0.960 (aim 0.95), TPR 0.70 (aim 0.6), met" in page
    assert "path: AUC 0.990 (aim 0.95), TPR 0.70 (aim 0.8), **not met**" in page
