"""Measure detection by number of repeats, and where along the trajectory a memorised prompt stands out.

    scripts/bench levels --model runs/levels/pipeline --data runs/levels/data --name levels

Numbers go to docs/benchmarks/detect-NAME.json; scripts/bench detect puts all of them on its page. A short
schedule is measured, so that a whole trajectory is a few seconds' work. The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml

from benchmarks.common import MODEL, NUMBERS, RUNS, write_numbers
from benchmarks.detection.data import Bench
from memsieve.filtering.statistics import auc
from memsieve.inference.copies.rate import copy_rate
from memsieve.inference.detect.detect import detect_rows
from memsieve.inference.detect.detectors import DetectSettings, PromptMeasurement
from memsieve.inference.detect.evaluate import EvaluationSettings, evaluate_detector, seconds_to_generate
from memsieve.inference.detect.kept import KeptMeasurements, measurements_on_disk
from memsieve.inference.detect.ordinary import OrdinaryPaths
from memsieve.inference.generate import GenerateSettings, generate
from memsieve.inference.guided import GuidedModel
from memsieve.inference.opened import open_model
from memsieve.inference.prompts.lists import PromptRow
from memsieve.inference.weights import weights_identity

SETTINGS = DetectSettings(schedule_steps=10, guidance_scale=3.0)
STEPS = {"magnitude": (1, 5, 10), "magnitude_fall": (5, 10)}
DRAWN = 4


def main(
    model: Annotated[Path, typer.Option(help="A pipeline trained on --data without a filter.")],
    data: Annotated[Path, typer.Option(help="A dataset folder with planted pairs and a held-out split.")],
    name: Annotated[str, typer.Option(help="Of the model, in the file's name.")],
    trained: Annotated[Path | None, typer.Option(help="The run's config.yaml, for its steps and batch size.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the JSON.")] = NUMBERS,
    base: Annotated[Path, typer.Option(help="The model before fine-tuning.")] = MODEL,
    ordinary: Annotated[int, typer.Option(help="Held-out captions.")] = 120,
    images: Annotated[str, typer.Option(help="Per prompt; comma-separated.")] = "1,4",
    steps_trained: Annotated[int | None, typer.Option(help="Where training was stopped before its end.")] = None,
) -> None:
    """Measure what is missing and write the JSON."""
    torch.set_num_threads(1)
    bench, numbers = Bench(model, data, ordinary), [int(n) for n in images.split(",")]
    everything = replace(SETTINGS, steps=SETTINGS.schedule_steps, images_per_prompt=max(numbers))
    asked = {"model": weights_identity(bench.opened.model), "settings": asdict(everything)}
    file = out / f"detect-{name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if found.get("asked") != asked:
        found = {"asked": asked}
    found["data"] = json.loads((data / "dataset.json").read_text())
    found["trained"] = _training(trained, steps_trained)
    known = _measured(bench, everything, asked, RUNS / f"detect-{name}.measured.jsonl")
    if "copies" not in found:
        found["copies"] = copies(bench)
        write_numbers(file, found)
    found["per_step_auc"] = [
        auc(*(np.asarray([known[c].magnitudes[:, k].mean() for c in side]) for side in _sides(bench)))
        for k in range(everything.steps)
    ]
    found["detection"] = detection(bench, known, numbers, found["copies"])
    found["early_exit"] = early_exit(bench, known, max(numbers))
    if "collapse" not in found:
        found["collapse"] = collapse(bench, open_model(base))
    found["seconds_per_generation"] = seconds_to_generate(bench.opened, _sides(bench)[0][:8], SETTINGS)
    write_numbers(file, found)
    typer.echo(f"numbers in {file}")


def _training(config: Path | None, steps: int | None) -> dict[str, Any]:
    """What the run's config says of its training; ``steps`` where it was stopped before its end."""
    train = (yaml.safe_load(config.read_text()) if config else {}).get("train", {})
    return {"steps": steps or train.get("steps"), "of_steps": train.get("steps"),
            "batch_size": train.get("batch_size"), "seed": train.get("seed")}  # fmt: skip


def _measured(
    bench: Bench, settings: DetectSettings, asked: dict[str, Any], kept: Path
) -> dict[str, PromptMeasurement]:
    """Every step of every prompt, measured once and read back from ``kept``."""
    kept.parent.mkdir(exist_ok=True)
    planted, held = _sides(bench)
    everyone = [*planted, *held]
    longest = EvaluationSettings(
        detect=settings, steps=(settings.steps,), images=(settings.images_per_prompt,), resamples=2, timed_prompts=1
    )
    with measurements_on_disk(kept, asked, resume=True) as store:
        evaluate_detector(bench.opened, everyone[:1], everyone[1:], longest, kept=store)
    with measurements_on_disk(kept, asked, resume=True) as (known, _):
        return known


def _sides(bench: Bench) -> tuple[list[str], list[str]]:
    return [p.caption for p in bench.planted], bench.captions["held_out"]


def copies(bench: Bench) -> dict[str, Any]:
    """Share of generations that copy, by caption and by level, from the schedule that is measured."""
    captions, groups = [p.caption for p in bench.planted], [p.group for p in bench.planted for _ in range(DRAWN)]
    images = generate(
        bench.opened.pipe, captions, DRAWN,
        GenerateSettings(steps=SETTINGS.schedule_steps, guidance_scale=SETTINGS.guidance_scale, batch=32),
    )  # fmt: skip
    verdicts = bench.judge.judge(images, groups)
    each = np.asarray([v.is_copy for v in verdicts]).reshape(-1, DRAWN).mean(1)
    pairs = {p.caption: {"repeats": p.repeats, "rate": float(r)} for p, r in zip(bench.planted, each, strict=True)}
    rates = {
        str(level): asdict(copy_rate([v for v, g in zip(verdicts, groups, strict=True) if g in _of(bench, level)]))
        for level in sorted({p.repeats for p in bench.planted})
    }
    return {"pairs": pairs, "levels": rates}


def _of(bench: Bench, level: int) -> set[str]:
    return {p.group for p in bench.planted if p.repeats == level}


def detection(
    bench: Bench, known: dict[str, PromptMeasurement], images: Sequence[int], copied: dict[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """All planted pairs, those that copy (left out where none does), and each level, against held-out captions; groups
    are base emoji."""
    chosen = {"all": _sides(bench)[0], "that copy": [c for c, pair in copied["pairs"].items() if pair["rate"] > 0]}
    chosen |= {str(level): [p.caption for p in bench.planted if p.repeats == level]
               for level in sorted({p.repeats for p in bench.planted})}  # fmt: skip
    held = bench.captions["held_out"]
    return {
        name: [
            asdict(result)
            for detector, steps in STEPS.items()
            for result in evaluate_detector(
                bench.opened, captions, held,
                EvaluationSettings(
                    detect=replace(SETTINGS, detector=detector, steps=max(steps)), steps=steps, images=images,
                    timed_prompts=8 if name == "all" else 1,
                ),
                groups=([bench.base[c] for c in captions], [bench.base[c] for c in held]),
                kept=KeptMeasurements(known, lambda _: None), progress=False,
            )
        ]
        for name, captions in chosen.items() if captions
    }  # fmt: skip


def early_exit(bench: Bench, known: dict[str, PromptMeasurement], images: int) -> dict[str, Any]:
    """Planted prompts judged after every step beside held-out captions: how many are flagged, and how soon."""
    settings = replace(SETTINGS, steps=SETTINGS.schedule_steps, images_per_prompt=images, early_exit=True)
    planted, held = _sides(bench)
    ordinary = OrdinaryPaths([known[c] for c in held], 0.01)
    rows = [PromptRow(line, caption) for line, caption in enumerate(planted, 1)]
    results = list(detect_rows(bench.opened, rows, settings, ordinary, 0.01))
    for result in results:
        whole = known[result.prompt].magnitudes.mean(axis=0)[: result.steps]
        if not np.allclose(result.per_step, whole, rtol=1e-3):
            raise AssertionError(f"'{result.prompt}': early exit changed a magnitude")
    return {
        "images": images, "flagged": sum(r.flagged for r in results), "prompts": len(results),
        "steps_of_flagged": [r.steps for r in results if r.flagged], "steps": [r.steps for r in results],
    }  # fmt: skip


@torch.no_grad()
def collapse(bench: Bench, before: GuidedModel) -> list[dict[str, Any]]:
    """What each branch predicts along planted prompts' trajectories: its x_0, decoded, against the planted image.

    ``before`` sees the same latents; its unconditional branch is the control.
    """
    opened, captions = bench.opened, _sides(bench)[0]
    groups, count = [p.group for p in bench.planted], len(captions)
    noise = opened.noise(captions, [0] * count, SETTINGS.seed)
    empty = before.unconditional(count)
    rows = []
    for step in opened.trajectory(
        noise, opened.encode(captions), opened.unconditional(count), steps=SETTINGS.schedule_steps,
        schedule_steps=SETTINGS.schedule_steps, guidance_scale=SETTINGS.guidance_scale,
    ):  # fmt: skip
        if step.index % 2:
            continue
        old, _ = before.predict(step.model_input, step.timestep, empty, empty)
        row: dict[str, Any] = {"step": step.index, "timestep": int(step.timestep)}
        for name, epsilon in (("cond", step.cond), ("uncond", step.other("magnitude")), ("uncond_before", old)):
            verdicts = bench.judge.judge(_decoded(opened, step.model_input, int(step.timestep), epsilon), groups)
            row[name] = {
                "copies": float(np.mean([v.is_copy for v in verdicts])),
                "distance": float(np.mean([v.own_distance for v in verdicts])),
            }
        rows.append(row)
    return rows


def _decoded(opened: GuidedModel, noisy: torch.Tensor, timestep: int, epsilon: torch.Tensor) -> torch.Tensor:
    alpha = float(opened.pipe.scheduler.alphas_cumprod[timestep])
    latents = (noisy - (1 - alpha) ** 0.5 * epsilon) / alpha**0.5
    vae = opened.pipe.vae
    images: torch.Tensor = vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1)
    return images


if __name__ == "__main__":
    typer.run(main)
