"""``memsieve explain``: which words of a prompt move what detection measures?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memsieve.cli.common import (
    BaseModel,
    Batch,
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
    warn,
)

__all__ = ["explain"]


def explain(
    model: Model,
    prompt: Annotated[list[str], typer.Option(help="A prompt. Repeatable.")],
    base: BaseModel = None,
    out: Annotated[Path | None, typer.Option(help="Folder for explain.json, explain.html and a PNG each.")] = None,
    at_steps: Annotated[str, typer.Option(help="Steps, from 0, at which gradients are taken; comma-separated.")] = "0",
    schedule_steps: Annotated[int, typer.Option(help="Length of the schedule.")] = 50,
    images_per_prompt: Annotated[int, typer.Option(help="Initial noises, averaged.")] = 4,
    guidance_scale: Guidance = 7.5,
    space: Annotated[str, typer.Option(help="auto, epsilon or native.")] = "auto",
    scheduler: Scheduler = "auto",
    seed: Seed = 0,
    batch: Batch = 4,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Say which words of a prompt move the drift from the model before fine-tuning most; without it the magnitude."""
    from memsieve.inference.detect.detectors import DetectSettings
    from memsieve.inference.explain.explain import explain as explain_prompt
    from memsieve.inference.explain.page import as_text, write_explanations

    before = base_for(model, base, "explain")
    settings = DetectSettings(
        detector=detector_for(None, before), schedule_steps=schedule_steps, images_per_prompt=images_per_prompt,
        guidance_scale=guidance_scale, seed=seed, space=space,
    )  # fmt: skip
    steps = numbers(at_steps, "--at-steps", least=0)
    opened = open_for(model, scheduler, device, dtype, before)
    found, failed = [], 0
    for text in prompt:
        if not text.strip():
            warn("a prompt is empty: there is no word to explain")
            failed += 1
            continue
        found.append(explain_prompt(opened, text, settings=settings, at_steps=steps, batch=batch))
        out_console.print(as_text(found[-1]), markup=False, highlight=False, soft_wrap=True)
        out_console.print(f"{found[-1].measure} {found[-1].value:.4g}\n", highlight=False)
        if found[-1].cut:
            warn(f"the prompt is too long for the text encoder, cut off: '{found[-1].cut[:80]}'")
    if out is not None and found:
        write_explanations(out, found)
        out_console.print(f"written to {out}", markup=False, soft_wrap=True, highlight=False)
    if failed:
        raise ValueError(f"--prompt: {failed} of {len(prompt)} prompts are empty; give some text")
