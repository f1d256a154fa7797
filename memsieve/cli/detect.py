"""``memsieve detect``: which prompts of a list stand out beside ordinary ones?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    Wandb,
    WandbSamples,
    base_for,
    detector_for,
    open_for,
    out_console,
    plain,
    say_unread,
    warn,
)
from memsieve.trackers.checks import upload_detection

__all__ = ["detect"]


def detect(
    model: Model,
    prompts: Annotated[
        Path,
        typer.Option(
            help="A .txt, .jsonl, .json, .csv, .tsv or .parquet file of prompts; shards, an image folder, HF data."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/detect"),
    base: BaseModel = None,
    ordinary: Annotated[
        Path | None, typer.Option(help="Prompts known not to be memorised; a shipped list if left out.")
    ] = None,
    false_positive_rate: Annotated[float, typer.Option(help="Share of ordinary prompts that may be flagged.")] = 0.01,
    detector: DetectorName = None,
    steps: Annotated[int, typer.Option(help="Steps that are run and averaged; sampling stops after them.")] = 1,
    schedule_steps: Annotated[int, typer.Option(help="Length of the schedule that these steps begin.")] = 50,
    images_per_prompt: Annotated[int, typer.Option(help="Initial noises, averaged.")] = 1,
    guidance_scale: Guidance = 7.5,
    space: Annotated[str, typer.Option(help="auto, epsilon or native.")] = "auto",
    resolution: Annotated[int | None, typer.Option(help="Pixels a side; the model's own if left out.")] = None,
    per_step: Annotated[bool, typer.Option(help="Keep the magnitude of each step.")] = False,
    early_exit: Annotated[
        bool, typer.Option("--early-exit", help="Stop a prompt at the first step that flags it; with --steps above 1.")
    ] = False,
    scheduler: Scheduler = "auto",
    seed: Seed = 0,
    batch: Batch = 16,
    device: Device = None,
    dtype: Dtype = "float32",
    resume: Annotated[bool, typer.Option(help="Go on with the results in --out.")] = False,
    show: Annotated[int, typer.Option(help="Rows of the table.")] = 20,
    wandb: Wandb = None,
    wandb_samples: WandbSamples = False,
) -> None:
    """Say which prompts of a list stand out beside ordinary ones, as prompts do that a model has memorised.

    Exit code 0 also where some lines could not be read or scored: they are counted and said. 2 where none could.
    """
    from memsieve.filtering.files import read_json_lines
    from memsieve.inference.detect.detectors import DetectSettings
    from memsieve.inference.detect.run import DetectionRun, detect_file

    before = base_for(model, base)
    detector = detector_for(detector, before)
    settings = DetectSettings(
        detector=detector, steps=steps, schedule_steps=schedule_steps, images_per_prompt=images_per_prompt,
        guidance_scale=guidance_scale, seed=seed, space=space, resolution=resolution, early_exit=early_exit,
    )  # fmt: skip
    opened = open_for(model, scheduler, device, dtype, before)
    run = DetectionRun(
        prompts=prompts, out=out, settings=settings, ordinary=ordinary, false_positive_rate=false_positive_rate,
        batch=batch, per_step=per_step, resume=resume,
    )  # fmt: skip
    try:
        summary = detect_file(opened, run)
    except KeyboardInterrupt:
        warn(f"stopped; the same command with --resume goes on with {out}")
        raise typer.Exit(130) from None
    rows = [row for row in read_json_lines(out / "scores.jsonl") if row["error"] is None]
    _print_scores(rows, detector, show)
    _warn_of(summary, rows, own_ordinary=ordinary is not None)
    _print_summary(summary, steps, out)
    if wandb is not None:
        upload_detection(wandb, out, wandb_samples)


def _print_scores(rows: list[dict[str, Any]], detector: str, show: int) -> None:
    table = Table("prompt", "score", "p", "flagged", title=f"{detector}, highest first")
    for row in sorted(rows, key=lambda row: -row["score"])[:show]:
        table.add_row(plain(row["prompt"]), f"{row['score']:.4g}", f"{row['p']:.3g}", "yes" if row["flagged"] else "")
    out_console.print(table)


def _warn_of(summary: dict[str, Any], rows: list[dict[str, Any]], own_ordinary: bool) -> None:
    for row in [row for row in rows if row["cut"]][:5]:
        warn(f"line {row['line']}: the prompt is too long for the text encoder, cut off: '{row['cut'][:80]}'")
    if summary["cut"] > 5:
        warn(f"{summary['cut'] - 5} more prompts were cut; see the column 'cut'")
    for error in summary["errors"]:
        warn(error)
    say_unread(summary["ordinary_errors"], summary["ordinary_failed"] + summary["ordinary"], "--ordinary")
    if not own_ordinary and summary["scored"] >= 20 and summary["flagged"] > 0.1 * summary["scored"]:
        warn(
            f"{summary['flagged']} of {summary['scored']} flagged: a model tuned to one domain reacts to all "
            "prompts of that domain more than to the shipped list; give ordinary prompts of the domain with --ordinary"
        )


def _print_summary(summary: dict[str, Any], steps: int, out: Path) -> None:
    out_console.print(
        f"{summary['read']} read = {summary['scored']} scored + {summary['failed']} failed; "
        f"{summary['flagged']} flagged (score above {summary['threshold']:.4g}, "
        f"{summary['false_positive_rate']:g} of {summary['ordinary']} ordinary prompts); "
        f"{summary['steps_per_prompt'] or 0:.3g} of {steps} steps each; results in {out}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
