"""``memsieve init``: from a folder of pictures to a config."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from memsieve.cli.common import out_console

__all__ = ["init"]

COMMENTS = {
    "output": "the run's folder; the same command goes on with what is there",
    "model": "a diffusers pipeline folder, or a hub id",
    "data": "a share of the pictures is held out: it tells when the run overfits",
    "filter": "pairs that come back as their own picture are trained on no more (docs/quick-start.md)",
    "train": "the run says when these are too many, and keeps the best model in best/",
}
LARGE = "pairs that are memorised are dropped; auto is the lowest rate that the held-out pairs can tell"


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures and captions, shards, or an HF dataset.")],
    model: Annotated[str, typer.Option(help="What to fine-tune.")] = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    out: Annotated[Path | None, typer.Option(help="The config; NAME.yaml by default.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Train all weights, not a LoRA.")] = False,
) -> None:
    """Look into a folder, say what is there, and write a short config that fits it."""
    from memsieve.train.suggest import look_into, suggestion

    name = folder.resolve().name
    file = out or Path(f"{name}.yaml")
    if file.exists():
        raise ValueError(f"--out: '{file}' exists; remove it, or name another file")
    found = look_into(folder)
    sections = suggestion(folder, found, model, f"runs/{name}", full)
    file.write_text(_text(sections, found.small), encoding="utf-8")
    _tell(found, sections, file)


def _text(sections: dict[str, Any], small: bool) -> str:
    parts = []
    for section, values in sections.items():
        comment = COMMENTS.get(section) if section != "filter" or small else LARGE
        parts += [f"# {comment}\n"] if comment else []
        parts.append(yaml.safe_dump({section: values}, sort_keys=False, allow_unicode=True))
    return "".join(parts)


def _held_out(found: Any, fraction: float) -> str:
    from memsieve.filtering.data.held_out import is_held_out

    return (
        f"{sum(is_held_out(group, fraction) for group in found.groups)} pictures" if found.whole else f"{fraction:.0%}"
    )


def _tell(found: Any, sections: dict[str, Any], file: Path) -> None:
    data, train = sections["data"], sections["train"]
    more = "" if found.whole else " or more"
    said = [
        f"{found.format}: {len(found.groups)}{more} pictures with captions, {len(found.captions)} different ones",
        f"without a caption {found.without_caption}, unreadable {found.unreadable}",
        f"shorter side {min(found.sides)} to {max(found.sides)} pixels: trained at {data['resolution']}",
        f"{train['steps']} steps of {train['batch_size']}; held out: {_held_out(found, data['held_out_fraction'])}",
    ]
    if len(found.captions) == 1 and len(found.groups) > 1:
        said.append("one caption for all: a drawing of it is compared with all pictures, and retires the one it shows")
    for line in (*said, f"wrote {file}; next: memsieve train {shlex.quote(str(file))}"):
        out_console.print(line, markup=False, highlight=False, soft_wrap=True)
