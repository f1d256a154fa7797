"""Where a check keeps the pictures of a pair: what was drawn for it before fine-tuning, and what is drawn now."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal

from PIL import Image
from torch import Tensor

from memsieve.filtering.data.decode import to_picture
from memsieve.filtering.types import group_name

__all__ = ["picture_file", "write_picture"]

SIDE: Final = 192
"""Pixels of the longer side; a page shows them smaller."""
_UNSAFE: Final = re.compile(r"[^0-9A-Za-z_-]")


def picture_file(folder: Path, group: str, when: Literal["before", "now"]) -> Path:
    """The picture of ``group`` in the folder of a check; names are untrusted and never leave that folder."""
    return folder / "pictures" / f"{_UNSAFE.sub('_', group_name(group))[:80]}-{when}.png"


def write_picture(folder: Path, group: str, when: Literal["before", "now"], pixels: Tensor) -> None:
    """Write ``pixels`` [3, H, W] in [-1, 1] as the picture of ``group``."""
    file = picture_file(folder, group, when)
    file.parent.mkdir(parents=True, exist_ok=True)
    image = to_picture(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(file, "PNG")
