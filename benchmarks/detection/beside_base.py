"""Measure detection with and without the model before fine-tuning, on models that copy.

    scripts/bench checks --model A/pipeline --data A/data --name a --model B/pipeline --data B/data --name b

Each model was fine-tuned on its --data without a filter. Prompts count where their pair really comes back; ordinary are
held-out captions, and apart from them other training captions. Numbers go to docs/benchmarks/checks-NAME.json, cell by
cell; the same command goes on with what is missing, and writes docs/benchmarks-checks.md anew from all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer

from benchmarks.common import NUMBERS, PAGES, RUNS, machine, write_numbers
from benchmarks.detection.beside_base_page import write_page
from benchmarks.detection.data import Bench
from memsieve.inference.base import base_of_model
from memsieve.inference.detect.detectors import DETECTORS, DetectSettings, PromptMeasurement
from memsieve.inference.detect.evaluate import EvaluationSettings, evaluate_detector, seconds_to_generate
from memsieve.inference.detect.kept import KeptMeasurements, measurements_on_disk
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.generate import GenerateSettings, generate
from memsieve.inference.progress import progress_bar
from memsieve.inference.step import MEASURES
from memsieve.inference.weights import weights_identity

SETTINGS: Final = DetectSettings(schedule_steps=20, guidance_scale=3.0)
DETECTORS_MEASURED: Final = ("magnitude", "magnitude_fall", "drift", "anchored_magnitude", "against_base")
IMAGES: Final = (1, 4)
DRAWN: Final = 4
"""Drawings of a planted caption; a pair copies where one of them does."""
SPLITS: Final = ("held_out", "train")


def main(
    model: Annotated[list[Path], typer.Option(help="A pipeline trained on its --data without a filter. Repeatable.")],
    data: Annotated[list[Path], typer.Option(help="Its dataset folder, with planted pairs and a held-out split.")],
    name: Annotated[list[str], typer.Option(help="Of the model, in the file's name.")],
    base: Annotated[list[Path] | None, typer.Option(help="The model before each; found by itself if left out.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the JSON.")] = NUMBERS,
    page: Annotated[Path, typer.Option(help="The page made of it.")] = PAGES / "benchmarks-checks.md",
    kept: Annotated[Path, typer.Option(help="Folder of the measurements, so that it goes on.")] = RUNS / "checks",
    ordinary: Annotated[int, typer.Option(help="Ordinary captions of each kind.")] = 300,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 16,
) -> None:
    """Measure what is missing and write the JSON of each model and the page."""
    torch.set_num_threads(1)
    if not len(model) == len(data) == len(name):
        raise ValueError(f"{len(model)} --model, {len(data)} --data, {len(name)} --name: each model needs one of each")
    if base and len(base) != len(model):
        raise ValueError(f"{len(base)} --base for {len(model)} --model: give one for each, or none")
    for index, called in enumerate(name):
        before = base_of_model(model[index]) if not base else str(base[index])
        if before is None:
            raise ValueError(f"--base: '{model[index]}' does not say what it was fine-tuned from; name it")
        bench = Bench(model[index], data[index], ordinary, before)
        one_model(bench, out / f"checks-{called}.json", kept / f"{called}.jsonl", ordinary, batch)
    write_page(page, out)
    typer.echo(f"numbers in {out}, page in {page}")


def one_model(bench: Bench, file: Path, kept: Path, ordinary: int, batch: int) -> None:
    """The missing cells of one model, each written when it is done."""
    everything = replace(SETTINGS, steps=SETTINGS.schedule_steps, images_per_prompt=max(IMAGES))
    asked = {
        "model": weights_identity(bench.opened.model), "settings": asdict(everything), "ordinary": ordinary,
        "base": weights_identity(bench.opened.base.network) if bench.opened.base is not None else None,
    }  # fmt: skip
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if found.get("asked") != json.loads(json.dumps(asked)):
        found = {"asked": asked, "plant": json.loads((bench.data / "dataset.json").read_text())["plant"], "cells": {}}
    if "copies" not in found:
        found["copies"] = copies(bench)
        write_numbers(file, found)
    copied = [caption for caption, rate in found["copies"].items() if rate > 0]
    wanted = {f"{detector}, {split}": (detector, split) for split in SPLITS for detector in DETECTORS_MEASURED}
    if not copied or not any(cell not in found["cells"] for cell in wanted):
        return
    known = measured(bench, copied, everything, asked, kept, batch)
    found["machine"] = machine()
    if "seconds_per_generation" not in found:
        found["seconds_per_generation"] = seconds_to_generate(bench.opened, copied[:8], SETTINGS)
    for cell, (detector, split) in wanted.items():
        if cell not in found["cells"]:
            typer.echo(f"measuring: {file.stem}, {cell}", err=True)
            found["cells"][cell] = evaluated(bench, copied, bench.captions[split], detector, known)
            write_numbers(file, found)


def copies(bench: Bench) -> dict[str, float]:
    """Share of the drawings from each planted caption that copy its picture."""
    captions = [pair.caption for pair in bench.planted]
    drawing = GenerateSettings(steps=SETTINGS.schedule_steps, guidance_scale=SETTINGS.guidance_scale, batch=32)
    images = generate(bench.opened.pipe, captions, DRAWN, drawing)
    verdicts = bench.judge.judge(images, [pair.group for pair in bench.planted for _ in range(DRAWN)])
    rates = np.asarray([verdict.is_copy for verdict in verdicts]).reshape(-1, DRAWN).mean(1)
    return dict(zip(captions, rates.tolist(), strict=True))


def measured(
    bench: Bench, copied: Sequence[str], settings: DetectSettings, asked: dict[str, Any], kept: Path, batch: int
) -> dict[str, PromptMeasurement]:
    """Every measure of every prompt at every step, once, and read back from ``kept``."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    prompts = list(dict.fromkeys([*copied, *(caption for split in SPLITS for caption in bench.captions[split])]))
    with measurements_on_disk(kept, asked, resume=True) as (known, keep), progress_bar(True) as bar:
        missing = [prompt for prompt in prompts if prompt not in known]
        task = bar.add_task("prompts", total=len(prompts), completed=len(prompts) - len(missing))
        for one in measure_prompts(bench.opened, missing, settings, batch, measures=MEASURES):
            keep(one)
            bar.advance(task)
    with measurements_on_disk(kept, asked, resume=True) as (known, _):
        return known


def evaluated(
    bench: Bench, copied: Sequence[str], ordinary: Sequence[str], detector: str, known: dict[str, PromptMeasurement]
) -> list[dict[str, Any]]:
    """First step and path, each with one and with several noises; groups are the base emoji.

    Seconds are those of the setting alone, with the passes that it needs.
    """
    whole = SETTINGS.schedule_steps
    steps = (whole,) if DETECTORS[detector].share else (1, whole)
    results = evaluate_detector(
        bench.opened, copied, ordinary,
        EvaluationSettings(
            detect=replace(SETTINGS, detector=detector, steps=whole), steps=steps, images=IMAGES, timed_prompts=16
        ),
        groups=([bench.base[c] for c in copied], [bench.base[c] for c in ordinary]),
        kept=KeptMeasurements(known, lambda _: None), progress=False,
    )  # fmt: skip
    return [asdict(result) for result in results]


if __name__ == "__main__":
    typer.run(main)
