"""The commands that compare images with the training set: index, verify, probe."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from memsieve.cli.common import (
    Device,
    Dtype,
    Model,
    Scheduler,
    Seed,
    load_for,
    open_for,
    plain,
    usable,
    warn,
    weights_of,
)
from memsieve.cli.common import out_console as _out
from memsieve.filtering.files import write_json
from memsieve.trackers.checks import Wandb, WandbSamples, upload_matches, upload_probe

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("index")(index)
    app.command("verify")(verify)
    app.command("probe")(probe)


def index(
    shards: Annotated[list[str], typer.Option("--data", help="Training shards: a folder, glob or range. Repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for the index.")],
    held_out: Annotated[
        list[str] | None, typer.Option(help="Shards never trained on: how near is near by chance. Repeatable.")
    ] = None,
    similarity: Annotated[str, typer.Option(help="tiled_l2, pixel_l2, phash or sscd.")] = "tiled_l2",
    sscd: Annotated[Path | None, typer.Option(help="The TorchScript file of an SSCD model, for sscd.")] = None,
) -> None:
    """Index training shards by similarity; the same command goes on where it stopped."""
    from memsieve.inference.copies.index import build_index

    if similarity == "sscd" and sscd is None:
        raise ValueError("--similarity = 'sscd' needs --sscd FILE, the TorchScript file of an SSCD model")
    options = {"path": str(sscd)} if similarity == "sscd" else {}
    built = build_index(shards, out, similarity=similarity, options=options, held_out=held_out or None)
    for error in built.errors[:5]:
        warn(error)
    null = f", {len(built.null)} held-out images" if built.null is not None else ""
    _out.print(
        f"{len(built)} distinct training images{null}, {len(built.errors)} unusable; index in {out}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def verify(
    index_folder: Annotated[Path, typer.Option("--index", help="What `memsieve index` wrote.")],
    images: Annotated[Path | None, typer.Option(help="An image, or a folder of images.")] = None,
    model: Annotated[Path | None, typer.Option(help="Or: a pipeline folder to generate with.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="The prompts to generate for.")] = None,
    images_per_prompt: Annotated[int, typer.Option(help="Generations per prompt.")] = 1,
    steps: Annotated[int, typer.Option(help="Of the generations.")] = 20,
    guidance_scale: Annotated[float, typer.Option(help="Of the generations.")] = 7.5,
    top: Annotated[int, typer.Option(help="Nearest pairs to show.")] = 3,
    alpha: Annotated[float, typer.Option(help="Share of held-out images that may be called copies.")] = 0.05,
    threshold: Annotated[float | None, typer.Option(help="A distance below which an image is a copy.")] = None,
    engine: Annotated[str, typer.Option(help="auto, exact or faiss.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for matches.json and matches.html.")] = Path("runs/verify"),
    resume: Annotated[bool, typer.Option(help="Go on with the generations in --out.")] = False,
    seed: Seed = 0,
    device: Device = None,
    wandb: Wandb = None,
    wandb_samples: WandbSamples = False,
) -> None:
    """Find the training images nearest to images, or to what a model draws, and say which are copies.

    Exit code 0 also where some images or lines could not be read: they are counted and said. 2 where none could.
    """
    from memsieve.inference.copies.index import TrainingIndex
    from memsieve.inference.copies.verify import image_files, load_files, square, verify_images, write_matches
    from memsieve.inference.prompts.lists import read_prompts
    from memsieve.inference.resume import ImageStore, generate_kept

    opened = TrainingIndex(index_folder)
    pixels: list[Any]
    if images is not None and model is None:
        if not images.exists():
            raise ValueError(f"--images: there is nothing at '{images}'")
        names, pixels = load_files(image_files(images), opened.side)
    elif model is not None and prompts is not None and images is None:
        texts = [row.prompt for row in usable(read_prompts(prompts), "--prompts")]
        pipe = load_for(model, device, "float32")
        options: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed}
        asked = {**options, "images_per_prompt": images_per_prompt, "prompts": texts, "model": weights_of(pipe)}
        store = ImageStore(out / "generated", asked, resume)
        drawn = generate_kept(pipe, texts, images_per_prompt, store, **options)
        names = [text for text in texts for _ in range(images_per_prompt)]
        pixels = list(square(drawn, opened.side))
    else:
        raise ValueError("give either --images, or --model together with --prompts")
    matches = verify_images(opened, names, pixels, k=top, alpha=alpha, threshold=threshold, engine=engine)
    write_matches(out, opened, matches, pixels)
    table = Table("image", "nearest training caption", "distance", "p", "copy")
    good = sorted((m for m in matches if m.neighbours), key=lambda m: m.neighbours[0].distance)
    for match in good[:20]:
        near = match.neighbours[0]
        table.add_row(
            plain(match.name[-60:]), plain(near.caption[:80]), f"{near.distance:.4f}",
            "" if match.p is None else f"{match.p:.3g}", {None: "?", True: "yes", False: ""}[match.copy],
        )  # fmt: skip
    _out.print(table)
    failed = [m for m in matches if m.error]
    for match in failed[:20]:
        warn(str(match.error))
    copies = sum(bool(m.copy) for m in matches)
    undecided = opened.null is None and threshold is None
    said = "no held-out images and no --threshold, so nothing is called a copy" if undecided else f"{copies} copies"
    _out.print(
        f"{len(matches)} read = {len(good)} compared + {len(failed)} failed; {said}; pictures in "
        f"{out / 'matches.html'}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    if not good:
        raise ValueError(f"--images: none of the {len(matches)} images could be compared; the first: {failed[0].error}")
    if wandb is not None:
        config = {"similarity": opened.name, "training_images": len(opened), "alpha": alpha, "threshold": threshold}
        upload_matches(wandb, out, matches, config, wandb_samples)


def probe(
    model: Model,
    dataset: Annotated[Path, typer.Option("--data", help="A dataset folder with truth.parquet and a held-out split.")],
    attack: Annotated[bool, typer.Option(help="Also search an embedding for each pair.")] = False,
    groups: Annotated[
        Path | None, typer.Option(help="Groups to probe, one a line; the planted ones if left out.")
    ] = None,
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
    """Say how many pairs come back: by their captions, and with --attack by a searched embedding beside controls."""
    from memsieve.inference.copies.attack import AttackSettings
    from memsieve.inference.copies.attack_run import probe_dataset
    from memsieve.inference.prompts.lists import read_names
    from memsieve.inference.resume import ImageStore

    settings = AttackSettings(
        updates=updates, lr=lr, images=images_per_prompt, steps=steps, guidance_scale=guidance_scale, seed=seed
    )
    wanted = None
    if groups is not None:
        wanted = read_names(groups, "--groups")
    pipe = open_for(model, scheduler, device, dtype).pipe if attack else load_for(model, device, dtype)
    if resume and out is None:
        raise ValueError("--resume needs --out FILE: the images are kept beside it")
    store = None
    if out is not None:
        asked = {**asdict(settings), "scheduler": scheduler, "groups": wanted, "data": str(dataset), "dtype": dtype}
        store = ImageStore(out.with_suffix(".generated"), {**asked, "model": weights_of(pipe)}, resume)
    results = probe_dataset(
        pipe, dataset, settings, scheduler=scheduler, attack=attack, groups=wanted, controls=controls,
        similarity=similarity, store=store,
    )  # fmt: skip
    table = Table("pairs", "by", "copies", "copy rate", "95 % interval")
    for (name, by), result in results.items():
        rate = result.rate
        table.add_row(
            name, by, f"{rate.copies} of {rate.generations}", f"{rate.rate:.2f}", f"{rate.low:.2f} to {rate.high:.2f}"
        )
    _out.print(table)
    if out is not None:
        written = {f"{name}, {by}": result.as_dict() for (name, by), result in results.items()}
        found = {"settings": asdict(settings), "results": written}
        write_json(out, found)
    if wandb is not None:
        folder = Path("runs/probe") if out is None else out.parent
        upload_probe(wandb, folder, results, {**asdict(settings), "similarity": similarity, "data": str(dataset)})
