"""From a folder of pictures and captions to a short config: what is there, and what it suggests."""

from __future__ import annotations

import io
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import Image

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import group_of
from memsieve.filtering.data.held_out import is_held_out
from memsieve.filtering.data.named import Format, kind_of
from memsieve.filtering.data.small import MOST
from memsieve.filtering.data.sources import open_source
from memsieve.filtering.settings import SettingsError
from memsieve.inference.model_side import model_side

__all__ = ["Found", "look_into", "suggestion"]

LOOKED: Final = 2000
"""Samples that are looked at: enough to tell a small set from a large one, and what its pictures are like."""
SIDES: Final = (1024, 768, 512, 256, 128, 64, 32)
PASSES: Final = 100
"""Of a small set: as often as guides for LoRAs of a subject read each picture. The run says when that is too many."""
FEWEST_HELD_OUT: Final = 2


@dataclass(slots=True)
class Found:
    """What a look into a data folder found.

    Attributes:
        groups: distinct pictures that have a caption and can be read.
        whole: all samples were looked at.
        without_caption, unreadable: samples that cannot be trained on.
        captions: distinct ones.
        sides: the shorter side of each picture, in pixels.
    """

    format: Format
    groups: list[str] = field(default_factory=list)
    whole: bool = True
    without_caption: int = 0
    unreadable: int = 0
    captions: set[str] = field(default_factory=set)
    sides: list[int] = field(default_factory=list)

    @property
    def small(self) -> bool:
        """Few enough to ask the model about each pair."""
        return self.whole and len(self.groups) <= MOST


def look_into(folder: Path) -> Found:
    """Read the folder's samples, their pictures by the header alone.

    Raises:
        SettingsError: there is nothing that could be trained on; says what to do.
    """
    found = Found(_format(folder))
    config = DataConfig(format=found.format, path=str(folder))
    source = open_source(config.path, config, "FOLDER")
    for number, raw in enumerate(raw for part in range(len(source)) for raw in source.read(part)):
        if number >= LOOKED:
            found.whole = False
            break
        side = _side(raw.image)
        if not raw.all_captions or not any(raw.all_captions):
            found.without_caption += 1
        elif raw.error is not None or side is None:
            found.unreadable += 1
        elif (group := group_of(raw, config)) not in found.groups:
            found.groups.append(group)
            found.captions.update(raw.all_captions)
            found.sides.append(side)
    if len(found.groups) < 2:
        raise SettingsError(
            f"FOLDER: '{folder}' ({found.format}) holds {len(found.groups)} different pictures with a caption, "
            f"{found.without_caption} without one and {found.unreadable} that cannot be read; write a caption for each "
            "picture, as NAME.txt beside NAME.png (docs/image-folders.md has the other ways)"
        )
    return found


def _format(folder: Path) -> Format:
    if not folder.is_dir():
        raise SettingsError(f"FOLDER: '{folder}' is no folder; name one that holds pictures and captions")
    return kind_of(folder)


def _side(image: bytes) -> int | None:
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return min(opened.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def suggestion(folder: Path, found: Found, model: str, output: str, full: bool = False) -> dict[str, Any]:
    """A config for what was found, as sections of plain values.

    Args:
        folder: of the data.
        found: in it.
        model: that is fine-tuned.
        output: the run's folder.
        full: train all weights, not a LoRA.
    """
    held_out, count = _held_out(found), len(found.groups)
    batch = max(1, min(4, count // 4))
    steps = max(100, PASSES * (count - _number_out(found, held_out)) // batch) if found.small else 5 * count // batch
    data: dict[str, Any] = {"format": found.format, "path": str(folder), "resolution": _resolution(found, model)}
    data["held_out_fraction"] = held_out
    if found.without_caption or found.unreadable:
        data["max_bad"] = found.without_caption + found.unreadable
    small = {"policy": "retire"}
    return {
        "output": output,
        "model": {"path": model} if full else {"path": model, "lora": {"rank": 16}},
        "data": data,
        "filter": small if found.small else {"policy": "drop", "false_drop_rate": "auto"},
        "train": {"steps": steps, "batch_size": batch, "seed": 0},
        "optimizer": {"lr": 1e-5 if full else 1e-4, "warmup_steps": min(100, steps // 10)},
        "validation": {"every": max(1, steps // 20)},
        "checkpoint": {"every": max(1, steps // 5), "keep": 1},
    }


def _number_out(found: Found, fraction: float) -> int:
    return sum(is_held_out(group, fraction) for group in found.groups)


def _held_out(found: Found) -> float:
    """A tenth of a small set, and two pictures at least; a fiftieth of a large one. They are picked by hash, so that a
    share may come to fewer than it says."""
    if not found.small:
        return 0.02
    wanted = max(FEWEST_HELD_OUT, len(found.groups) // 10)
    return next((share / 100 for share in range(10, 45, 5) if _number_out(found, share / 100) >= wanted), 0.45)


def _resolution(found: Found, model: str) -> int:
    """The largest usual side that half of the pictures and the model have."""
    side = min(statistics.median_low(found.sides), model_side(model))
    return next((usual for usual in SIDES if usual <= side), SIDES[-1])
