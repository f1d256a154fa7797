"""``memsieve probe``: how many pairs come back, by their captions and by attacks?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from memsieve.cli.common import (
    BaseModel,
    Device,
    Dtype,
    Model,
    Scheduler,
    Seed,
    Wandb,
    base_for,
    load_for,
    open_for,
    out_console,
)
from memsieve.trackers.checks import upload_probe

if TYPE_CHECKING:
    from memsieve.inference.copies.probe import ProbeResult

__all__ = ["probe"]


def probe(
    model: Model,
    data: Annotated[list[str], typer.Option(help="Training pairs: shards, one .tar, an image folder, an HF dataset.")],
    held_out: Annotated[list[str], typer.Option(help="Pairs never trained on, of the same kind.")],
    data_format: Annotated[str | None, typer.Option("--format", help="webdataset, hf or folder; looked up.")] = None,
    base: BaseModel = None,
    attack: Annotated[
        bool, typer.Option(help="Also search an embedding for each pair, and beside the base draw beyond the model.")
    ] = False,
    groups: Annotated[
        Path | None, typer.Option(help="Groups to probe, one a line, as groups.parquet of a run names them.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Or so many pairs: those with the most rows.")] = 16,
    controls: Annotated[int, typer.Option(help="Held-out pairs attacked alike.")] = 8,
    images_per_prompt: Annotated[int, typer.Option(help="Generations per pair.")] = 3,
    steps: Annotated[int, typer.Option(help="Of the generations.")] = 20,
    guidance_scale: Annotated[float, typer.Option(help="Of the generations.")] = 3.0,
    updates: Annotated[int, typer.Option(help="Of the attack.")] = 50,
    lr: Annotated[float, typer.Option(help="Of the attack.")] = 0.1,
    similarity: Annotated[str, typer.Option(help="pixel_l2, tiled_l2, phash.")] = "pixel_l2",
    scheduler: Scheduler = "auto",
    out: Annotated[Path | None, typer.Option(help="Also write the verdicts as JSON.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the images beside --out.")] = False,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "float32",
    wandb: Wandb = None,
) -> None:
    """Say how many pairs come back: by their captions; with --attack also by a searched embedding and, where the model
    before fine-tuning is known, by drawings that go beyond the model, each beside held-out controls. Without an attack
    `memsieve check` says more.
    """
    from memsieve.filtering.data.named import named_data
    from memsieve.inference.base import base_of_model
    from memsieve.inference.copies.attack import AttackSettings
    from memsieve.inference.copies.probe_run import ProbeSettings, probe_dataset, probe_store, write_probe
    from memsieve.inference.model_side import model_side
    from memsieve.inference.prompts.lists import read_names

    drawing = AttackSettings(
        updates=updates, lr=lr, images=images_per_prompt, steps=steps, guidance_scale=guidance_scale, seed=seed
    )
    settings = ProbeSettings(
        attack=attack, drawing=drawing, scheduler=scheduler, controls=controls, similarity=similarity, most=most,
        groups=None if groups is None else read_names(groups, "--groups"),
    )  # fmt: skip
    if base is not None and not attack:
        raise ValueError("--base: the attacks alone compare with it; add --attack, or leave it out")
    if resume and out is None:
        raise ValueError("--resume needs --out FILE: the images are kept beside it")
    before = base_for(model, base, "attack") if attack else None
    named = named_data(
        data, data_format, resolution=model_side(before or base_of_model(model) or str(model)), held_out_path=held_out
    )
    opened = open_for(model, scheduler, device, dtype, before) if attack else None
    pipe = opened.pipe if opened is not None else load_for(model, device, dtype, None)
    store = None
    if out is not None:
        store = probe_store(out.with_suffix(".generated"), opened or pipe, named, settings, dtype, resume)
    results = probe_dataset(opened or pipe, named, settings, store=store)
    _print_rates(results)
    if out is not None:
        write_probe(out, settings, results)
    if wandb is not None:
        folder = Path("runs/probe") if out is None else out.parent
        upload_probe(wandb, folder, results, {**asdict(drawing), "similarity": similarity, "data": named.path})


def _print_rates(results: dict[tuple[str, str], ProbeResult]) -> None:
    table = Table("pairs", "by", "copies", "copy rate", "95 % interval")
    for (name, by), result in results.items():
        rate = result.rate
        table.add_row(
            name, by, f"{rate.copies} of {rate.generations}", f"{rate.rate:.2f}", f"{rate.low:.2f} to {rate.high:.2f}"
        )
    out_console.print(table)
