"""Measure what stops a model from drawing what it learned by heart: copies, prompt alignment, and an attack.

    scripts/bench mitigate --model RUN/pipeline --data DATA --name NAME

The model is one that was fine-tuned on --data without a filter, and really copies. Numbers go to
docs/benchmarks/mitigate-NAME.json, way by way; the same command goes on with what is missing, and the page of all
models is written anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import pyarrow.parquet as pq
import torch
import typer

from benchmarks.common import NUMBERS, PAGES, write_numbers
from benchmarks.detection.data import Bench
from benchmarks.detection.minimisation import alignment_of
from benchmarks.mitigation.mixes import levels_of
from benchmarks.mitigation.page import write_page
from benchmarks.mitigation.study import Study
from benchmarks.mitigation.ways import WAYS, Asked
from memsieve.inference.base import base_of_model
from memsieve.inference.copies.attack import AttackSettings
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.minimize.minimize import ordinary_target
from memsieve.inference.prompts.lists import read_prompts
from memsieve.inference.weights import weights_identity

GUIDANCE: Final = 3.0


def main(
    model: Annotated[Path, typer.Option(help="A pipeline trained on --data without a filter.")],
    data: Annotated[Path, typer.Option(help="A dataset folder with planted pairs and a held-out split.")],
    name: Annotated[str, typer.Option(help="Of the model, in the file's name.")],
    base: Annotated[
        Path | None, typer.Option(help="The model before fine-tuning; found by itself if left out.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Planted captions to take; all if left out.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the JSON.")] = NUMBERS,
    page: Annotated[Path, typer.Option(help="The page made of it.")] = PAGES / "benchmarks-mitigation.md",
    images: Annotated[int, typer.Option(help="Per prompt.")] = 8,
    steps: Annotated[int, typer.Option(help="Of the schedule.")] = 20,
    ordinary: Annotated[int, typer.Option(help="Held-out captions, for levels and targets.")] = 120,
    updates: Annotated[int, typer.Option(help="Of the attack.")] = 50,
) -> None:
    """Measure what is missing and write the JSON and the page."""
    torch.set_num_threads(1)
    found_base = base_of_model(model) if base is None else str(base)
    if found_base is None:
        raise ValueError(f"--base: '{model}' does not say what it was fine-tuned from; name it")
    bench = Bench(model, data, ordinary, found_base)
    bench.planted = _chosen(bench, prompts)
    settings = DetectSettings(schedule_steps=steps, guidance_scale=GUIDANCE)
    attack = AttackSettings(updates=updates, images=images, steps=steps, guidance_scale=GUIDANCE)
    asked: dict[str, Any] = {
        "model": weights_identity(bench.opened.model), "settings": asdict(settings), "images": images,
        "attack": asdict(attack), "ordinary": ordinary, "prompts": [p.caption for p in bench.planted],
    }  # fmt: skip
    file = out / f"mitigate-{name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if found.get("asked") != json.loads(json.dumps(asked)):
        found = {"asked": asked, "plant": json.loads((data / "dataset.json").read_text())["plant"], "ways": {}}
    missing = [way for way in WAYS if way not in found["ways"]]
    if missing:
        study = _study(bench, data, settings, attack, found)
        for way in missing:
            typer.echo(f"measuring: {way}", err=True)
            found["ways"][way] = study.measured(way)
            write_numbers(file, found)
    write_page(page, out)
    typer.echo(f"numbers in {file}, page in {page}")


def _chosen(bench: Bench, file: Path | None) -> Any:
    """The planted pairs, or those whose captions ``file`` names."""
    if file is None:
        return bench.planted
    wanted = {row.prompt for row in read_prompts(file) if row.error is None}
    unknown = wanted - {pair.caption for pair in bench.planted}
    if unknown:
        raise ValueError(f"--prompts: '{sorted(unknown)[0]}' is the caption of no planted pair of --data")
    return [pair for pair in bench.planted if pair.caption in wanted]


def _study(bench: Bench, data: Path, settings: DetectSettings, attack: AttackSettings, found: dict[str, Any]) -> Study:
    """Everything that the ways go by, measured on held-out captions."""
    rows = {row["key"]: row for row in pq.read_table(data / "truth.parquet").to_pylist()}
    aligned, found["encoder"] = alignment_of(bench, data, rows)
    held, opened = bench.captions["held_out"], bench.opened
    targets = {
        measure: ordinary_target(opened, held, DetectSettings(**{**asdict(settings), "detector": measure}))
        for measure in ("magnitude", "drift")
    }
    levels = levels_of(opened, held, settings.guidance_scale, settings.schedule_steps)
    found["levels"], found["targets"] = asdict(levels), targets
    return Study(bench, aligned, Asked(settings, levels, targets), attack)


if __name__ == "__main__":
    typer.run(main)
