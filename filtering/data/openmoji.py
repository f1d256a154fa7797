"""OpenMoji as a dataset with planted duplicates: WebDataset shards, a held-out split, and the truth about them."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from memsieve.filtering.data.openmoji_names import (
    Emoji,
    colour_words,
    held_out_bases,
    list_emoji,
    miniature,
    rank,
    render_emoji,
)
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.files import write_json

__all__ = [
    "ATTRIBUTION",
    "LICENCE",
    "Picture",
    "Plant",
    "build_openmoji",
    "choose_planted",
    "draw_pictures",
    "parse_plant",
]

LICENCE = "CC BY-SA 4.0"
ATTRIBUTION = (
    "All emojis designed by OpenMoji - the open-source emoji and icon project (https://openmoji.org). "
    "License: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). "
    "Changes: rasterised on white, captioned from the Unicode names."
)
_THUMB = 16


@dataclass(frozen=True, slots=True)
class Plant:
    """``count`` pairs that appear ``repeats`` times each in the training shards."""

    count: int
    repeats: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.repeats < 1:
            raise ValueError(f"plant {self.count}x{self.repeats}: pairs and repeats must both be at least 1")


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn emoji. ``thumb`` float32 [768] in [0, 1] finds look-alikes; ``vivid``: it has colours."""

    emoji: Emoji
    caption: str
    png: bytes
    thumb: np.ndarray
    vivid: bool


def parse_plant(text: str) -> Plant:
    """Read ``8x268``: 8 pairs that appear 268 times each.

    Raises:
        ValueError: not of that form, or a number under 1.
    """
    match = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", text)
    if match is None:
        raise ValueError(f"plant '{text}' must look like PAIRSxREPEATS, for example 8x268")
    return Plant(int(match[1]), int(match[2]))


def build_openmoji(
    out: Path,
    size: int = 64,
    seed: int = 0,
    plant: Sequence[Plant | str] = (),
    held_out_fraction: float = 0.12,
    limit: int | None = None,
    shard_size: int = 500,
    colours: bool = True,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write OpenMoji as WebDataset shards with planted duplicates, and return what ``dataset.json`` says.

    Layout: ``train/*.tar`` and ``held_out/*.tar`` (members KEY.png, KEY.txt, KEY.json), ``truth.parquet`` (one row per
    sample), ``dataset.json`` and ``ATTRIBUTION.txt``. Training and held-out pairs share no base: no thing is on both
    sides, whatever its skin tone, gender or hair. The split depends on ``seed`` only, not on what is planted. Planted
    pairs are coloured, unlike all others, and the only image of their base. Same arguments, same bytes.

    Args:
        out: folder to write; it must not exist or be empty, unless ``overwrite``.
        size: side of the images in pixels.
        seed: decides the split, the planted pairs and the order.
        plant: ``Plant(8, 268)`` or ``"8x268"``, any number of them, each with pairs of its own.
        held_out_fraction: share of bases held out; at least 100 bases where there are 400 or more.
        limit: build from at most this many images (whole bases, seeded), for tests.
        shard_size: at most this many rows a shard; there are at least 8 training and 2 held-out shards.
        colours: add the main colours to each caption ("strawberry, red and green").
        overwrite: replace an earlier dataset in ``out``.
        progress: called with (images drawn, images in all).

    Raises:
        ValueError: a bad argument, a folder in the way, a missing optional package, or too few images.
    """
    plants = [parse_plant(item) if isinstance(item, str) else item for item in plant]
    out = Path(out)
    _check_arguments(out, size, held_out_fraction, limit, shard_size, overwrite)
    pictures, twins = draw_pictures(miniature(list_emoji(), seed, limit), size, colours, progress)
    held_bases = held_out_bases({picture.emoji.base for picture in pictures}, seed, held_out_fraction)
    held = [picture for picture in pictures if picture.emoji.base in held_bases]
    train = [picture for picture in pictures if picture.emoji.base not in held_bases]
    repeats = choose_planted(train, pictures, plants, seed)

    copies = [(picture, copy) for picture in train for copy in range(repeats.get(picture.emoji.name, 1))]
    copies.sort(key=lambda item: rank(seed, "order", f"{item[0].emoji.name}/{item[1]}"))
    held.sort(key=lambda picture: rank(seed, "order", picture.emoji.name))

    work = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    truth = _write_split(
        work, "train", [picture for picture, _ in copies], repeats, max(8, -(-len(copies) // shard_size))
    )
    truth += _write_split(work, "held_out", held, {}, max(2, -(-len(held) // shard_size)))
    pq.write_table(pa.Table.from_pylist(truth), work / "truth.parquet")
    summary = {
        "source": "OpenMoji",
        "licence": LICENCE,
        "attribution": ATTRIBUTION,
        "seed": seed,
        "size": size,
        "images": len(pictures),
        "identical_images_left_out": twins,
        "bases": len({picture.emoji.base for picture in pictures}),
        "held_out_bases": len(held_bases),
        "train_rows": len(copies),
        "train_groups": len(train),
        "held_out_rows": len(held),
        "plant": [f"{item.count}x{item.repeats}" for item in plants],
        "planted_pairs": len(repeats),
        "planted_rows": sum(repeats.values()),
        "train_shards": len(list((work / "train").glob("*.tar"))),
        "held_out_shards": len(list((work / "held_out").glob("*.tar"))),
    }
    write_json(work / "dataset.json", summary)
    (work / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    work.rename(out)
    return summary


def _check_arguments(
    out: Path, size: int, fraction: float, limit: int | None, shard_size: int, overwrite: bool
) -> None:
    if size < 8:
        raise ValueError(f"size = {size} must be at least 8 pixels")
    if not 0.0 < fraction < 0.5:
        raise ValueError(f"held_out_fraction = {fraction} must lie between 0 and 0.5")
    if limit is not None and limit < 16:
        raise ValueError(f"limit = {limit} is too few images for two splits; use 16 or more, or none")
    if shard_size < 1:
        raise ValueError(f"shard_size = {shard_size} must be at least 1")
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"'{out}' is a file; name a folder")
    if any(out.iterdir()) and not overwrite:
        raise ValueError(f"folder '{out}' is not empty; name another one, or overwrite it")
    if any(out.iterdir()) and not (out / "dataset.json").is_file():
        raise ValueError(f"folder '{out}' holds something else than a dataset; it is not overwritten")


def draw_pictures(
    emoji: list[Emoji], size: int, colours: bool, progress: Callable[[int, int], None] | None
) -> tuple[list[Picture], int]:
    """Draw all; of images that look exactly alike (some flags) the first stays, so that a group has one caption."""
    pictures: dict[str, Picture] = {}
    for done, item in enumerate(emoji, start=1):
        image, rgba = render_emoji(item.svg, size)
        stream = io.BytesIO()
        image.save(stream, format="PNG")
        thumb = np.asarray(image.resize((_THUMB, _THUMB), Image.Resampling.BOX), dtype=np.float32).ravel() / 255
        saturation = np.asarray(image.convert("HSV"))[..., 1]
        caption = f"{item.caption}, {colour_words(rgba)}" if colours else item.caption
        vivid = bool((saturation > 80).mean() > 0.10)
        pictures.setdefault(content_id(stream.getvalue()), Picture(item, caption, stream.getvalue(), thumb, vivid))
        if progress is not None:
            progress(done, len(emoji))
    return list(pictures.values()), len(emoji) - len(pictures)


def choose_planted(train: list[Picture], pictures: list[Picture], plants: list[Plant], seed: int) -> dict[str, int]:
    """Repeats by emoji name. A planted image is the only one of its base and unlike every other image, or
    "the nearest training image" of a generation would be a tie."""
    if not plants:
        return {}
    members: dict[str, int] = {}
    for picture in pictures:
        members[picture.emoji.base] = members.get(picture.emoji.base, 0) + 1
    thumbs = np.stack([picture.thumb for picture in pictures])
    squares = (thumbs**2).sum(1)
    fit: list[Picture] = []
    for picture in train:
        if members[picture.emoji.base] > 1 or picture.emoji.flag or not picture.vivid:
            continue
        distance = squares + (picture.thumb**2).sum() - 2 * thumbs @ picture.thumb
        if float(np.sort(distance)[1]) / thumbs.shape[1] >= 0.10**2:  # [0] is the image itself
            fit.append(picture)
    fit.sort(key=lambda picture: rank(seed, "plant", picture.emoji.name))
    wanted = sum(item.count for item in plants)
    if wanted > len(fit):
        raise ValueError(f"{wanted} planted pairs are asked for and {len(fit)} images are fit for it; plant fewer")
    each = [item.repeats for item in plants for _ in range(item.count)]
    return {picture.emoji.name: repeats for picture, repeats in zip(fit, each, strict=False)}


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
