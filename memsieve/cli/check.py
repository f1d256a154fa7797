"""``memsieve check``: which pairs of a finished run come back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memsieve.cli.common import Device, Seed, out_console
from memsieve.filtering.settings import expand_home

__all__ = ["check"]


def check(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    model: Annotated[str | None, typer.Option(help="best, lora, pipeline, or a folder; what the run advises.")] = None,
    drawings: Annotated[int, typer.Option(min=1, max=64, help="Of each pair's caption.")] = 8,
    most: Annotated[int, typer.Option(min=1, help="Pairs to ask about: those with the most evidence.")] = 64,
    steps: Annotated[int, typer.Option(help="Of the drawings.")] = 20,
    guidance_scale: Annotated[float, typer.Option(help="Of the drawings.")] = 7.5,
    out: Annotated[Path | None, typer.Option(help="Folder for check.json and check.html; RUN/check.")] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Draw the captions of a run's training pairs, and say which come back as their own picture, beside the model
    before fine-tuning and held-out captions. All is read from the run; drawings are kept, so that the same command goes
    on.
    """
    from memsieve.inference.copies.checked_run import read_run
    from memsieve.inference.copies.run_check import check_run
    from memsieve.inference.copies.run_check_page import headline, write_check
    from memsieve.inference.generate import GenerateSettings

    model = None if model is None else expand_home(model)
    folder = out or run / "check"
    settings = GenerateSettings(steps=steps, guidance_scale=guidance_scale, seed=seed)
    found = check_run(read_run(run, model), folder, drawings=drawings, most=most, settings=settings, device=device)
    page = write_check(found, folder)
    out_console.print(f"{found.run.model}: {headline(found)}", markup=False, highlight=False, soft_wrap=True)
    print(page)
