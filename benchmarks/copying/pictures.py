"""OpenMoji drawn once for all streams: at 256 pixels that takes minutes."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.data.openmoji import Picture, draw_pictures
from memsieve.filtering.data.openmoji.names import list_emoji, miniature

__all__ = ["SPLIT_SEED", "pictures_at"]

SPLIT_SEED = 0
"""Of the pictures that are held out, and of the choice of few, for tests."""
OVERSAMPLE = 1
"""At 256 pixels edges are smooth as they are drawn, and drawing them four times larger takes ten times as long."""
Progress = Callable[[int, int], None] | None


def pictures_at(folder: Path, side: int, limit: int | None = None, progress: Progress = None) -> list[Picture]:
    """All pictures of ``side`` pixels, kept in ``folder``; several processes may ask for them at once.

    Args:
        folder: of the kept ones.
        side: of the pictures, in pixels.
        limit: draw at most so many, for tests.
        progress: is told how many of how many are drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"openmoji-{side}{f'-{limit}' if limit else ''}.parquet"
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        emoji = {one.name: one for one in miniature(list_emoji(), SPLIT_SEED, limit)}
        if not file.is_file():
            pictures, _ = draw_pictures(list(emoji.values()), side, True, progress, OVERSAMPLE)
            unfinished = file.with_suffix(".new")
            pq.write_table(pa.Table.from_pylist([_row_of(picture) for picture in pictures]), unfinished)
            unfinished.replace(file)
        return [
            Picture(emoji[row["name"]], row["caption"], row["png"], np.frombuffer(row["thumb"], "<f4"), row["vivid"])
            for row in pq.read_table(file).to_pylist()
        ]


def _row_of(picture: Picture) -> dict[str, Any]:
    return {
        "name": picture.emoji.name,
        "caption": picture.caption,
        "png": picture.png,
        "thumb": picture.thumb.astype("<f4").tobytes(),
        "vivid": picture.vivid,
    }
