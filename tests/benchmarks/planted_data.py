"""A small dataset folder laid out as ``memsieve data openmoji`` lays it out: smooth random pictures, some planted."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image

from memsieve.filtering.data.rows import content_id

__all__ = ["planted_data", "planted_groups_of"]

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def planted_data(folder: Path, plants: Sequence[tuple[int, int]], ordinary: int, held_out: int, size: int = 16) -> Path:
    """Pairs are planted by ``plants``, (pairs, repeats) each; ``ordinary`` and ``held_out`` ones stand there once."""
    repeats = [times for count, times in plants for _ in range(count)] + [1] * ordinary
    train = [number for number, times in enumerate(repeats) for _ in range(times)]
    truth = _write(folder, "train", train, repeats, size)
    truth += _write(folder, "held_out", [1000 + n for n in range(held_out)], None, size)
    pq.write_table(pa.Table.from_pylist(truth), folder / "truth.parquet")
    about = {"plant": [f"{count}x{times}" for count, times in plants], "train_rows": len(train),
             "train_groups": len(repeats)}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def planted_groups_of(data: Path) -> set[str]:
    """The groups that stand in the training shards more than once, by counting them."""
    groups = [row["group"] for row in pq.read_table(data / "truth.parquet").to_pylist() if row["split"] == "train"]
    return {group for group in groups if groups.count(group) > 1}


def _picture(number: int, size: int) -> bytes:
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(stream, "PNG")
    return stream.getvalue()


def _caption(number: int) -> str:
    """In letters alone, which every tokenizer of the tests knows."""
    first, rest = divmod(number, 26 * 26)
    return "pair " + " ".join(LETTERS[place] for place in (first, rest // 26, rest % 26))


def _write(
    folder: Path, split: str, numbers: Sequence[int], repeats: Sequence[int] | None, size: int
) -> list[dict[str, Any]]:
    """Two shards of the pictures ``numbers``; returns their truth."""
    (folder / split).mkdir(parents=True)
    truth = []
    for shard in range(2):
        with webdataset.TarWriter(str(folder / split / f"{shard:05d}.tar"), mtime=0) as tar:
            for place in range(shard, len(numbers), 2):
                number, key = numbers[place], f"{split.replace('_', '-')}-{place:06d}"
                png, caption = _picture(number, size), _caption(number)
                tar.write({"__key__": key, "png": png, "txt": caption})
                truth.append({"key": key, "group": content_id(png), "base": f"base {number}", "caption": caption,
                              "repeats": repeats[number] if repeats else 1, "split": split})  # fmt: skip
    return truth
