"""What the commands that check a model share: options by name, opening a model, printing untrusted text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from memsieve.inference.prompts.lists import PromptRow

__all__ = [
    "USELESS",
    "BaseModel",
    "Batch",
    "DetectorName",
    "Device",
    "Dtype",
    "Guidance",
    "Model",
    "Scheduler",
    "Seed",
    "Wandb",
    "WandbSamples",
    "base_for",
    "detector_for",
    "error_console",
    "load_for",
    "numbers",
    "open_for",
    "ordinary_for",
    "out_console",
    "plain",
    "say_unread",
    "usable",
    "warn",
]

_ALIKE = "the model's own two branches, which learn a repeated pair alike where captions were dropped in training"
WITHOUT_BASE = {
    "judge": f"a prompt is judged by {_ALIKE}: memorised prompts may then look like any other",
    "explain": f"a word's weight is what it does to {_ALIKE}: words that call the pair up may then weigh little",
    "minimize": f"what is brought down is the distance of {_ALIKE}: a memorised prompt may meet the target already",
    "check": "only held-out pairs (--held-out) say what a caption draws that was not learned",
    "verify": "nothing says which of these pictures it would have drawn too, so that fine-tuning did not teach them",
    "attack": "an embedding is searched for, and the other attack, which goes on from it beyond the model, is not made",
}
"""What is lost, by what a command does."""
USELESS = 4
"""Exit code: everything was done, and nothing that was read can be used."""

error_console = Console(stderr=True, emoji=False)  # a key between colons is not an emoji
out_console = Console(emoji=False)

Model = Annotated[
    Path, typer.Option(help="A pipeline folder, a hub id, CHECKPOINT.safetensors, or LORA.safetensors::BASE.")
]
BaseModel = Annotated[
    Path | None,
    typer.Option(
        "--base", help="The model before fine-tuning, or none; found by itself beside a run's pipeline or a LoRA."
    ),
]
DetectorName = Annotated[
    str | None,
    typer.Option(
        "--detector",
        help="With a base drift (the default), anchored_magnitude or against_base; else magnitude, magnitude_cosine or "
        "magnitude_fall.",
    ),
]
Seed = Annotated[int, typer.Option(help="Of the initial noise.")]
Guidance = Annotated[float, typer.Option(help="Of the trajectory; above 1.")]
Scheduler = Annotated[str, typer.Option(help="auto (DDIM for diffusion models), ddim, or own.")]
Batch = Annotated[int, typer.Option(help="Images at a time.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; a GPU where there is one.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]


Wandb = Annotated[str | None, typer.Option("--wandb", help="W&B project to send the results to; numbers only.")]
WandbSamples = Annotated[
    bool, typer.Option("--wandb-samples", help="Send prompts and the page with its pictures to W&B as well.")
]


def base_for(model: Path, base: Path | None, purpose: str = "judge") -> str | None:
    """The model before fine-tuning of a command line: as ``--base`` says, or what the model's folder names; None where
    there is none, and what that costs is said.

    Args:
        purpose: of ``WITHOUT_BASE``, what the command does.
    """
    from memsieve.inference.base import base_of_model

    if base is not None:
        return None if str(base) == "none" else str(base)
    found = base_of_model(model)
    if found is None:
        warn(f"without the model before fine-tuning {WITHOUT_BASE[purpose]}. Name it with --base, or say --base none")
    return found


def open_for(model: Path, scheduler: str, device: str | None, dtype: str, base: str | None = None) -> Any:
    """The model of a command line, opened for measuring, beside its ``base`` where there is one."""
    from memsieve.inference.opened import open_model

    return open_model(model, scheduler=scheduler, device=device, dtype=_dtype(dtype), base=base)


def detector_for(named: str | None, base: str | None) -> str:
    """The detector of a command line: as named, or the one that says most with what there is."""
    from memsieve.inference.detect.detectors import DETECTORS, WITH_BASE

    if named is None:
        return WITH_BASE if base is not None else "magnitude"
    if named in DETECTORS and DETECTORS[named].against_base and base is None:
        raise ValueError(f"--detector {named} compares with the model before fine-tuning: name it with --base")
    return named


def load_for(model: Path, device: str | None, dtype: str, base: str | Path | None = None) -> Any:
    """The pipeline of a command line, of any family, for generating; a LoRA's file in the ``base`` that is named."""
    import torch

    from memsieve.inference.generate import load_pipeline

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    named = None if base is None or str(base) == "none" else str(base)
    return load_pipeline(model, device=place, dtype=_dtype(dtype), base=named)


def _dtype(name: str) -> Any:
    import torch

    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in kinds:
        raise ValueError(f"--dtype = '{name}': must be one of {', '.join(kinds)}")
    return kinds[name]


def numbers(text: str, option: str, least: int = 1) -> list[int]:
    """Comma-separated whole numbers of at least ``least``."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} = '{text}': must be whole numbers separated by commas") from None
    if min(found) < least:
        raise ValueError(f"{option} = '{text}': all must be at least {least}")
    return found


def usable(rows: Sequence[PromptRow], option: str) -> list[PromptRow]:
    """The rows that can be used; the others are counted and said, the first few one by one."""
    say_unread([row.error for row in rows if row.error is not None], len(rows), option)
    return [row for row in rows if row.error is None]


def ordinary_for(file: Path | None) -> list[str]:
    """The ordinary prompts of ``--ordinary``, or the shipped ones."""
    from memsieve.inference.prompts.lists import ordinary_prompts, read_prompts

    if file is None:
        return ordinary_prompts()
    return [row.prompt for row in usable(read_prompts(file, "--ordinary"), "--ordinary")]


def say_unread(errors: Sequence[str], read: int, option: str, most: int = 5) -> None:
    """Warn of the lines of a prompt file that could not be used, ``errors`` of ``read``."""
    for error in errors[:most]:
        warn(error)
    if errors:
        warn(f"{option}: {len(errors)} of {read} lines could not be used")


def plain(text: str, most: int = 200) -> Any:
    """Text for a table, its brackets no markup, its control characters visible, and no longer than ``most``."""
    from rich.text import Text

    shown = text if len(text) <= most else f"{text[: most - 1]}…"
    return Text("".join(c if c.isprintable() else "�" for c in shown))


def warn(sentence: str) -> None:
    """A warning on standard error."""
    error_console.print(
        f"warning: {plain(sentence, 600)}", style="yellow", markup=False, highlight=False, soft_wrap=True
    )
