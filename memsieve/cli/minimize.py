"""``memsieve minimize``: a prompt's embedding that no longer regurgitates, and other words for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

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
    open_for,
    ordinary_for,
    out_console,
    plain,
    warn,
)

if TYPE_CHECKING:
    from memsieve.inference.minimize.edits import Suggestion
    from memsieve.inference.minimize.minimize import Minimized

__all__ = ["minimize"]


def minimize(
    model: Model,
    prompt: Annotated[str, typer.Option(help="The memorised prompt.")],
    base: BaseModel = None,
    out: Annotated[Path, typer.Option(help="Folder for embeddings, trace and pictures.")] = Path("runs/minimize"),
    target: Annotated[
        float | None,
        typer.Option(help="Drift to reach, magnitude without a base; from ordinary prompts if left out."),
    ] = None,
    target_quantile: Annotated[float, typer.Option(help="Of what ordinary prompts come to, for the target.")] = 0.3,
    ordinary: Annotated[Path | None, typer.Option(help="Ordinary prompts; the shipped list if left out.")] = None,
    images_per_prompt: Annotated[int, typer.Option(help="Images, each with embeddings of its own.")] = 4,
    iterations: Annotated[int, typer.Option(help="Updates at most.")] = 30,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate, 0.05; with closest the largest update as a share of the embedding, 0.1."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="adamw (Wen et al.), or closest: the target with the least change.")
    ] = "adamw",
    tokens: Annotated[
        str, typer.Option(help="What moves: all, the words, or the padding (and end token) behind them.")
    ] = "all",
    replace: Annotated[
        list[str] | None, typer.Option(help="A word to try in place of the heaviest ones. Repeatable.")
    ] = None,
    generate: Annotated[bool, typer.Option(help="Also draw the images, before and after.")] = True,
    schedule_steps: Annotated[int, typer.Option(help="Length of the schedule.")] = 50,
    guidance_scale: Guidance = 7.5,
    space: Annotated[str, typer.Option(help="auto, epsilon or native.")] = "auto",
    scheduler: Scheduler = "auto",
    seed: Seed = 0,
    batch: Batch = 4,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Change a memorised prompt's embedding until it no longer regurgitates, and suggest other words."""
    from memsieve.inference.detect.detectors import DetectSettings
    from memsieve.inference.minimize.edits import suggest_edits
    from memsieve.inference.minimize.files import write_minimized, write_pictures
    from memsieve.inference.minimize.minimize import minimize as minimize_prompt
    from memsieve.inference.minimize.minimize import ordinary_target
    from memsieve.inference.minimize.settings import MinimizeSettings

    if not prompt.strip():
        raise ValueError("--prompt: the prompt is empty; give some text")
    before = base_for(model, base, "minimize")
    settings = DetectSettings(
        detector=detector_for(None, before), schedule_steps=schedule_steps, guidance_scale=guidance_scale, seed=seed,
        space=space,
    )  # fmt: skip
    how = MinimizeSettings(iterations=iterations, lr=lr, method=method, tokens=tokens)
    known = ordinary_for(ordinary)
    opened = open_for(model, scheduler, device, dtype, before)
    if target is None:
        target = ordinary_target(opened, known, settings, target_quantile)
    result = minimize_prompt(opened, prompt, target, images=images_per_prompt, how=how, settings=settings, batch=batch)
    _, suggestions = suggest_edits(opened, prompt, replacements=replace or ["something"], settings=settings)
    write_minimized(out, result, suggestions)
    _print_result(result)
    _print_edits(suggestions)
    if not all(result.met):
        warn("the target was not met for every image: more --iterations, a higher --lr, or another wording")
    if generate:
        write_pictures(out, opened, result, settings)
    out_console.print(f"written to {out}", markup=False, soft_wrap=True, highlight=False)


def _print_result(result: Minimized) -> None:
    named = result.measure.replace("_", " ")
    table = Table("image", f"{named} before", "after", "updates", f"at most {result.targets[0]:.4g}")
    for i, (after, updates, met) in enumerate(zip(result.value, result.updates, result.met, strict=True)):
        table.add_row(str(i), f"{result.trace[0][i]:.4g}", f"{after:.4g}", str(updates), "yes" if met else "no")
    out_console.print(table)


def _print_edits(suggestions: list[Suggestion]) -> None:
    table = Table("change", "prompt", "score")
    for suggestion in suggestions:
        table.add_row(plain(suggestion.change), plain(suggestion.prompt), f"{suggestion.score:.4g}")
    out_console.print(table)
