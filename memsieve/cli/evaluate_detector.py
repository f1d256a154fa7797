"""``memsieve evaluate-detector``: how well does a detector separate memorised from ordinary prompts?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from memsieve.cli.common import (
    BaseModel,
    Batch,
    DetectorName,
    Device,
    Dtype,
    Guidance,
    Model,
    Scheduler,
    Seed,
    base_for,
    detector_for,
    numbers,
    open_for,
    out_console,
    usable,
    warn,
)

if TYPE_CHECKING:
    from memsieve.inference.detect.evaluate_run import Evaluation

__all__ = ["evaluate_detector"]


def evaluate_detector(
    model: Model,
    memorized: Annotated[Path, typer.Option(help="Prompts known to be memorised.")],
    ordinary: Annotated[Path | None, typer.Option(help="Ordinary prompts; the shipped list if left out.")] = None,
    base: BaseModel = None,
    detector: DetectorName = None,
    steps: Annotated[str, typer.Option(help="Comma-separated.")] = "1,10,50",
    images_per_prompt: Annotated[str, typer.Option(help="Comma-separated.")] = "1,4",
    schedule_steps: Annotated[int, typer.Option(help="Length of the schedule.")] = 50,
    guidance_scale: Guidance = 7.5,
    space: Annotated[str, typer.Option(help="auto, epsilon or native.")] = "auto",
    scheduler: Scheduler = "auto",
    seed: Seed = 0,
    batch: Batch = 16,
    device: Device = None,
    dtype: Dtype = "float32",
    out: Annotated[Path | None, typer.Option(help="Also write the results as JSON.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the measurements beside --out.")] = False,
) -> None:
    """AUC and TPR at 1 % FPR of a detector, with intervals over groups of near-identical prompts."""
    from memsieve.inference.detect.detectors import DetectSettings
    from memsieve.inference.detect.evaluate import EvaluationSettings
    from memsieve.inference.detect.evaluate_run import evaluate_rows
    from memsieve.inference.prompts.lists import PromptRow, ordinary_prompts, read_prompts

    chosen, images = numbers(steps, "--steps"), numbers(images_per_prompt, "--images-per-prompt")
    before = base_for(model, base)
    settings = DetectSettings(
        detector=detector_for(detector, before), steps=min(chosen), schedule_steps=schedule_steps,
        guidance_scale=guidance_scale, seed=seed, space=space,
    )  # fmt: skip
    asked = EvaluationSettings(detect=settings, steps=chosen, images=images, batch=batch)
    first = read_prompts(memorized, "--memorized")
    if ordinary is None:
        second = [PromptRow(i, text) for i, text in enumerate(ordinary_prompts(), 1)]
    else:
        second = read_prompts(ordinary, "--ordinary")
    first, second = usable(first, "--memorized"), usable(second, "--ordinary")
    opened = open_for(model, scheduler, device, dtype, before)
    _print_results(evaluate_rows(opened, first, second, asked, out=out, resume=resume), schedule_steps)


def _print_results(found: Evaluation, schedule_steps: int) -> None:
    table = Table("steps", "n", "AUC", "95 %", "TPR at 1 % FPR", "95 %", "s / prompt")
    for r in found.results:
        table.add_row(
            str(r.steps), str(r.images_per_prompt), f"{r.auc.value:.3f}", f"{r.auc.low:.3f} to {r.auc.high:.3f}",
            f"{r.tpr.value:.3f}", f"{r.tpr.low:.3f} to {r.tpr.high:.3f}", f"{r.seconds_per_prompt:.3g}",
        )  # fmt: skip
    out_console.print(table)
    some = found.results[0]
    out_console.print(
        f"{some.memorized} memorised prompts in {some.memorized_groups} groups, {some.ordinary} ordinary in "
        f"{some.ordinary_groups}; a plain generation of {schedule_steps} steps takes "
        f"{found.seconds_per_generation:.3g} s",
        highlight=False,
        soft_wrap=True,
    )
    if some.ordinary < 100:
        warn(f"{some.ordinary} ordinary prompts: below 100, a false-positive rate of 1 % allows none of them")
