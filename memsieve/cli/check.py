"""``memsieve check``: which training pairs of a finished run, or of any model, come back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memsieve.cli.common import BaseModel, Device, Seed, base_for, out_console
from memsieve.filtering.settings import expand_home

if TYPE_CHECKING:
    from memsieve.inference.copies.checked_run import CheckedRun

__all__ = ["check"]


def check(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run folder; or --model and --data.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Of a run best, lora, pipeline, or a folder; what it advises. Else any model.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Training pairs: shards, one .tar, an image folder, an HF dataset.")
    ] = None,
    data_format: Annotated[str | None, typer.Option("--format", help="webdataset, hf or folder; looked up.")] = None,
    held_out: Annotated[list[str] | None, typer.Option(help="Pairs never trained on, of the same kind.")] = None,
    base: BaseModel = None,
    resolution: Annotated[int | None, typer.Option(help="With --data: pixels a side; the model's own.")] = None,
    copy_rate: Annotated[float, typer.Option(help="With --data: drawings in which a pair may come back.")] = 0.01,
    drawings: Annotated[int, typer.Option(min=1, max=64, help="Of each pair's caption.")] = 8,
    most: Annotated[int, typer.Option(min=1, help="Pairs to ask about: those with the most evidence.")] = 64,
    steps: Annotated[int, typer.Option(help="Of the drawings.")] = 20,
    guidance_scale: Annotated[float, typer.Option(help="Of the drawings.")] = 7.5,
    out: Annotated[Path | None, typer.Option(help="Folder of the page; RUN/check, or runs/check.")] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Draw the captions of training pairs, and say which come back as their own picture, beside the model before
    fine-tuning and held-out captions. Of a run all is read from its folder; of another model name --model and --data.
    Drawings are kept, so that the same command goes on.
    """
    from memsieve.inference.copies.run_check import check_run
    from memsieve.inference.copies.run_check_page import headline, write_check
    from memsieve.inference.generate import GenerateSettings

    named = {"--data": data, "--format": data_format, "--held-out": held_out, "--resolution": resolution}
    if run is not None:
        if given := [option for option, value in named.items() if value]:
            raise ValueError(f"{given[0]}: a run's folder says it already; leave it out, or name --model without RUN")
        asked, folder = _run(run, model, base), out or run / "check"
    elif model is None or not data:
        raise ValueError("name a run's folder, or --model together with the --data that it was trained on")
    else:
        side = {} if resolution is None else {"resolution": resolution}
        asked = _any_model(model, (data, data_format, held_out), base, copy_rate, side)
        folder = out or Path("runs/check")
    settings = GenerateSettings(steps=steps, guidance_scale=guidance_scale, seed=seed)
    found = check_run(asked, folder, drawings=drawings, most=most, settings=settings, device=device)
    page = write_check(found, folder)
    out_console.print(f"{found.run.model}: {headline(found)}", markup=False, highlight=False, soft_wrap=True)
    print(page)


def _run(run: Path, model: str | None, base: Path | None) -> CheckedRun:
    from memsieve.inference.copies.checked_run import read_run

    read = read_run(run, None if model is None else expand_home(model))
    return read if base is None else replace(read, base=None if str(base) == "none" else str(base))


def _any_model(
    model: str,
    data: tuple[list[str], str | None, list[str] | None],
    base: Path | None,
    copy_rate: float,
    side: dict[str, int],
) -> CheckedRun:
    from memsieve.filtering.data.named import named_data
    from memsieve.inference.copies.checked_run import model_and_data
    from memsieve.inference.model_side import model_side

    if not 0.0 < copy_rate < 1.0:
        raise ValueError(f"--copy-rate = {copy_rate}: must lie between 0 and 1")
    named = expand_home(model)
    before = base_for(Path(named), base, "check")
    paths, kind, held_out = data
    side = side or {"resolution": model_side(str(before or named))}
    settings: dict[str, Any] = {**side, **({"held_out_path": held_out} if held_out else {})}
    return model_and_data(named, named_data(paths, kind, **settings), before, copy_rate)
