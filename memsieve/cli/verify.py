"""``memsieve verify``: are images, or what a model draws, copies of training images?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from memsieve.cli.common import (
    BaseModel,
    Device,
    Seed,
    Wandb,
    WandbSamples,
    base_for,
    load_for,
    out_console,
    plain,
    usable,
    warn,
)
from memsieve.trackers.checks import upload_matches

if TYPE_CHECKING:
    from memsieve.inference.copies.verify import Match

__all__ = ["verify"]


def verify(
    index_folder: Annotated[Path, typer.Option("--index", help="What `memsieve index` wrote.")],
    images: Annotated[Path | None, typer.Option(help="An image, or a folder of images.")] = None,
    model: Annotated[Path | None, typer.Option(help="Or: a pipeline folder to generate with.")] = None,
    base: BaseModel = None,
    prompts: Annotated[Path | None, typer.Option(help="The prompts to generate for.")] = None,
    images_per_prompt: Annotated[int, typer.Option(help="Generations per prompt.")] = 1,
    steps: Annotated[int, typer.Option(help="Of the generations.")] = 20,
    guidance_scale: Annotated[float, typer.Option(help="Of the generations.")] = 7.5,
    top: Annotated[int, typer.Option(help="Nearest pairs to show.")] = 3,
    alpha: Annotated[
        float, typer.Option("--false-positive-rate", help="Share of held-out images that may be called copies.")
    ] = 0.05,
    threshold: Annotated[float | None, typer.Option(help="A distance below which an image is a copy.")] = None,
    engine: Annotated[str, typer.Option(help="auto, exact or faiss.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for matches.json and matches.html.")] = Path("runs/verify"),
    resume: Annotated[bool, typer.Option(help="Go on with the generations in --out.")] = False,
    seed: Seed = 0,
    device: Device = None,
    wandb: Wandb = None,
    wandb_samples: WandbSamples = False,
) -> None:
    """Find the training images nearest to images, or to what a model draws, and say which are copies. Beside the model
    before fine-tuning it says which of these that draws too, from the same noise.

    Exit code 0 also where some images or lines could not be read: they are counted and said. 2 where none could.
    """
    from memsieve.inference.copies.index import TrainingIndex
    from memsieve.inference.copies.verify import (
        draw_images,
        image_files,
        load_files,
        square,
        verify_images,
        with_base,
        write_matches,
    )
    from memsieve.inference.generate import GenerateSettings
    from memsieve.inference.prompts.lists import read_prompts

    if base is not None and model is None:
        raise ValueError("--base draws beside a model: give it with --model and --prompts")
    opened = TrainingIndex(index_folder)
    pixels: list[Any]
    theirs: list[Any] | None = None
    if images is not None and model is None:
        if not images.exists():
            raise ValueError(f"--images: there is nothing at '{images}'")
        names, pixels = load_files(image_files(images), opened.side)
    elif model is not None and prompts is not None and images is None:
        texts = [row.prompt for row in usable(read_prompts(prompts), "--prompts")]
        drawing = GenerateSettings(steps=steps, guidance_scale=guidance_scale, seed=seed)
        before = base_for(model, base, "verify")

        def drawn_by(who: Path, folder: str) -> list[Any]:
            # One after the other: two models need not fit into memory.
            pipe = load_for(who, device, "float32", before)
            images = draw_images(pipe, texts, images_per_prompt, out / folder, drawing, resume=resume)
            return list(square(images, opened.side))

        names = [text for text in texts for _ in range(images_per_prompt)]
        pixels = drawn_by(model, "generated")
        theirs = None if before is None else drawn_by(Path(before), "generated_before")
    else:
        raise ValueError("give either --images, or --model together with --prompts")
    asked: dict[str, Any] = {"k": top, "alpha": alpha, "threshold": threshold, "engine": engine}
    matches = verify_images(opened, names, pixels, **asked)
    if theirs is not None:
        matches = with_base(matches, verify_images(opened, names, theirs, **asked))
    write_matches(out, opened, matches, pixels, base_images=theirs)
    _print_matches(matches, out, decided=opened.null is not None or threshold is not None)
    if wandb is not None:
        config = {"similarity": opened.name, "training_images": len(opened), "alpha": alpha, "threshold": threshold}
        upload_matches(wandb, out, matches, config, wandb_samples)


def _also_before(matches: list[Match]) -> str:
    """How many copies the model before fine-tuning draws too; nothing where it was not asked."""
    copies = [match for match in matches if match.copy]
    if not copies or all(match.base_copy is None for match in matches):
        return ""
    return f", {sum(bool(match.base_copy) for match in copies)} of them copies by the model before fine-tuning too"


def _print_matches(matches: list[Match], out: Path, decided: bool) -> None:
    table = Table("image", "nearest training caption", "distance", "p", "copy")
    good = sorted((m for m in matches if m.neighbours), key=lambda m: m.neighbours[0].distance)
    for match in good[:20]:
        near = match.neighbours[0]
        table.add_row(
            plain(match.name[-60:]), plain(near.caption[:80]), f"{near.distance:.4f}",
            "" if match.p is None else f"{match.p:.3g}", {None: "?", True: "yes", False: ""}[match.copy],
        )  # fmt: skip
    out_console.print(table)
    failed = [m for m in matches if m.error]
    for match in failed[:20]:
        warn(str(match.error))
    copies = sum(bool(m.copy) for m in matches)
    said = "no held-out images and no --threshold, so nothing is called a copy"
    if decided:
        said = f"{copies} copies{_also_before(matches)}"
    out_console.print(
        f"{len(matches)} read = {len(good)} compared + {len(failed)} failed; {said}; pictures in "
        f"{out / 'matches.html'}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    if not good:
        raise ValueError(f"--images: none of the {len(matches)} images could be compared; the first: {failed[0].error}")
