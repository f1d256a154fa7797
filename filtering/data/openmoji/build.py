"""OpenMoji as a dataset with planted duplicates: WebDataset shards, a held-out split, and the truth about them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.data.openmoji.names import held_out_bases, list_emoji, miniature, rank
from memsieve.filtering.data.openmoji.pictures import Picture, draw_pictures
from memsieve.filtering.data.openmoji.planting import Plant, choose_planted, parse_plant
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.files import write_json

__all__ = ["ATTRIBUTION", "LICENCE", "DatasetPlan", "build_openmoji"]

LICENCE = "CC BY-SA 4.0"
ATTRIBUTION = (
    "All emojis designed by OpenMoji - the open-source emoji and icon project (https://openmoji.org). "
    "License: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). "
    "Changes: rasterised on white, captioned from the Unicode names."
)


@dataclass(frozen=True, slots=True)
class DatasetPlan:
    """What the dataset holds. Equal plans give equal bytes."""

    size: int = 64
    """Side of the images in pixels."""
    seed: int = 0
    """Decides the split, the planted pairs and the order."""
    plant: Sequence[Plant | str] = ()
    """``Plant(8, 268)`` or ``"8x268"``, any number of them, each with pairs of its own."""
    held_out_fraction: float = 0.12
    """Share of bases held out; at least 100 bases where there are 400 or more."""
    limit: int | None = None
    """Build from at most this many images (whole bases, seeded), for tests."""
    shard_size: int = 500
    """At most this many rows a shard; there are at least 8 training and 2 held-out shards."""
    colours: bool = True
    """Add the main colours to each caption ("strawberry, red and green")."""

    def plants(self) -> list[Plant]:
        """``plant``, read.

        Raises:
            ValueError: one has another form than ``"8x268"``.
        """
        return [parse_plant(item) if isinstance(item, str) else item for item in self.plant]

    def check(self) -> None:
        """Refuse what makes no dataset.

        Raises:
            ValueError: names it.
        """
        self.plants()
        if self.size < 8:
            raise ValueError(f"size = {self.size} must be at least 8 pixels")
        if not 0.0 < self.held_out_fraction < 0.5:
            raise ValueError(f"held_out_fraction = {self.held_out_fraction} must lie between 0 and 0.5")
        if self.limit is not None and self.limit < 16:
            raise ValueError(f"limit = {self.limit} is too few images for two splits; use 16 or more, or none")
        if self.shard_size < 1:
            raise ValueError(f"shard_size = {self.shard_size} must be at least 1")


@dataclass(frozen=True, slots=True)
class _Splits:
    """Training pictures with each copy that they appear as, and held-out ones, in the order of their shards."""

    train: list[Picture]
    held_out: list[Picture]
    repeats: dict[str, int]
    """Of the planted pairs, by emoji name."""
    train_groups: int
    held_out_bases: int


def build_openmoji(
    out: Path,
    plan: DatasetPlan = DatasetPlan(),
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write OpenMoji as WebDataset shards with planted duplicates, and return what ``dataset.json`` says.

    Layout: ``train/*.tar`` and ``held_out/*.tar`` (members KEY.png, KEY.txt, KEY.json), ``truth.parquet`` (one row per
    sample), ``dataset.json`` and ``ATTRIBUTION.txt``. Training and held-out pairs share no base: no thing is on both
    sides, whatever its skin tone, gender or hair. The split depends on ``seed`` only, not on what is planted. Planted
    pairs are coloured, unlike all others, and the only image of their base. Same plan, same bytes.

    Args:
        out: folder to write; it must not exist or be empty, unless ``overwrite``.
        overwrite: replace an earlier dataset in ``out``.
        progress: called with (images drawn, images in all).

    Raises:
        ValueError: a bad plan, a folder in the way, a missing optional package, or too few images.
    """
    plan.check()
    _check_folder(out, overwrite)
    emoji = miniature(list_emoji(), plan.seed, plan.limit)
    pictures, twins = draw_pictures(emoji, plan.size, plan.colours, progress)
    splits = _split(pictures, plan)
    work = out.with_name(f".{out.name}.tmp")
    summary = {
        "source": "OpenMoji",
        "licence": LICENCE,
        "attribution": ATTRIBUTION,
        "seed": plan.seed,
        "size": plan.size,
        "images": len(pictures),
        "identical_images_left_out": twins,
        "bases": len({picture.emoji.base for picture in pictures}),
        **_write(work, splits, plan),
    }
    write_json(work / "dataset.json", summary)
    if out.exists():
        shutil.rmtree(out)
    work.rename(out)
    return summary


def _check_folder(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"'{out}' is a file; name a folder")
    if any(out.iterdir()) and not overwrite:
        raise ValueError(f"folder '{out}' is not empty; name another one, or overwrite it")
    if any(out.iterdir()) and not (out / "dataset.json").is_file():
        raise ValueError(f"folder '{out}' holds something else than a dataset; it is not overwritten")


def _split(pictures: list[Picture], plan: DatasetPlan) -> _Splits:
    """Which pictures are held out, how often the others appear, and the order of both."""
    bases = held_out_bases({picture.emoji.base for picture in pictures}, plan.seed, plan.held_out_fraction)
    held = [picture for picture in pictures if picture.emoji.base in bases]
    train = [picture for picture in pictures if picture.emoji.base not in bases]
    repeats = choose_planted(train, pictures, plan.plants(), plan.seed)
    copies = [(picture, copy) for picture in train for copy in range(repeats.get(picture.emoji.name, 1))]
    copies.sort(key=lambda item: rank(plan.seed, "order", f"{item[0].emoji.name}/{item[1]}"))
    held.sort(key=lambda picture: rank(plan.seed, "order", picture.emoji.name))
    return _Splits([picture for picture, _ in copies], held, repeats, len(train), len(bases))


def _write(folder: Path, splits: _Splits, plan: DatasetPlan) -> dict[str, Any]:
    """The shards, their truth and the attribution into a fresh ``folder``; how many of each thing there are."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shards = [max(least, -(-len(rows) // plan.shard_size)) for rows, least in ((splits.train, 8), (splits.held_out, 2))]
    truth = _write_split(folder, "train", splits.train, splits.repeats, shards[0])
    truth += _write_split(folder, "held_out", splits.held_out, {}, shards[1])
    pq.write_table(pa.Table.from_pylist(truth), folder / "truth.parquet")
    (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")
    return {
        "held_out_bases": splits.held_out_bases,
        "train_rows": len(splits.train),
        "train_groups": splits.train_groups,
        "held_out_rows": len(splits.held_out),
        "plant": [f"{item.count}x{item.repeats}" for item in plan.plants()],
        "planted_pairs": len(splits.repeats),
        "planted_rows": sum(splits.repeats.values()),
        "train_shards": shards[0],
        "held_out_shards": shards[1],
    }


def _write_split(
    out: Path, split: str, pictures: list[Picture], repeats: dict[str, int], shards: int
) -> list[dict[str, Any]]:
    """Deal rows evenly over ``shards`` tars; returns their truth. Each tar is written under a temporary name."""
    import webdataset

    folder = out / split
    folder.mkdir()
    truth: list[dict[str, Any]] = []
    for shard, (start, stop) in enumerate(_spans(len(pictures), shards)):
        name = f"{shard:05d}.tar"
        partial = folder / f"{name}.part"
        # A fixed time and owner: equal arguments give equal bytes.
        with partial.open("wb") as file, webdataset.TarWriter(file, user="memsieve", group="memsieve", mtime=0) as tar:
            for number in range(start, stop):
                picture = pictures[number]
                emoji = picture.emoji
                key = f"{split.replace('_', '-')}-{number:06d}"  # says nothing about what is planted
                meta = {
                    "source": f"OpenMoji {emoji.name}.svg",
                    "licence": LICENCE,
                    "attribution": ATTRIBUTION,
                    "codepoints": emoji.name,
                    "base": emoji.base,
                    "base_hash": hashlib.sha256(emoji.base.encode()).hexdigest()[:16],
                }
                tar.write({"__key__": key, "png": picture.png, "txt": picture.caption, "json": meta})
                truth.append(
                    {
                        "key": key,
                        "shard": f"{split}/{name}",
                        "group": content_id(picture.png),
                        "base": emoji.base,
                        "caption": picture.caption,
                        "planted": emoji.name in repeats,
                        "repeats": repeats.get(emoji.name, 1),
                        "split": split,
                    }
                )
        partial.rename(folder / name)
    return truth


def _spans(rows: int, parts: int) -> Iterator[tuple[int, int]]:
    for part in range(parts):
        yield rows * part // parts, rows * (part + 1) // parts
