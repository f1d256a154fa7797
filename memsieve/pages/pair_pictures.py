"""The pictures of a run's pairs for its page: the training picture, what was drawn for it before, and what is now."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from markupsafe import Markup
from PIL import Image
from pydantic import ValidationError

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import BadSample, decode_image, group_of
from memsieve.filtering.data.fields import printable
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.data.shard_paths import expand_paths
from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.data.sources import open_source
from memsieve.filtering.settings import SettingsError
from memsieve.filtering.types import group_name
from memsieve.inference.copies.pair_pictures import picture_file
from memsieve.pages.pictures import thumbnail
from memsieve.pages.run_data import GroupRow, RunData

__all__ = ["PairPictures", "kept_picture", "pictures_of_pairs"]

SIDE: Final = 128
MOST_SHARDS: Final = 64
MOST_ROWS: Final = 20_000
"""Samples that are read for pictures that the run did not keep, near misses above all."""


@dataclass(slots=True)
class PairPictures:
    """Of one pair, as data URIs; None where there is none."""

    own: Markup | None = None
    before: Markup | None = None
    now: Markup | None = None


def pictures_of_pairs(data: RunData, rows: Sequence[GroupRow]) -> dict[str, PairPictures]:
    """The pictures of the groups of ``rows``, by group.

    Training pictures are those that the run kept, and otherwise read from its data once more where that still lies on
    disk. Drawings are those of ``memsieve check RUN``, and of a run that asked its model the last of its own.
    """
    run, check = data.path, data.path / "check"
    found = {
        row.group: PairPictures(
            _inside(run / "thumbnails", row.group),
            kept_picture(picture_file(check, row.group, "before"), SIDE),
            kept_picture(picture_file(check, row.group, "now"), SIDE) or _inside(run / "drawn", row.group),
        )
        for row in rows
    }
    missing = {row.group: row.shard for row in rows if found[row.group].own is None}
    for group, picture in _read_again(data, missing).items():
        found[group].own = picture
    return found


def kept_picture(file: Path, side: int) -> Markup | None:
    """The picture as a data URI, at most ``side`` pixels a side; None where there is none that can be read.

    It is decoded and encoded anew, so that nothing but pixels reaches the page.
    """
    try:
        with Image.open(file) as opened:
            opened.thumbnail((side, side))  # before its pixels are decoded: of a large JPEG a part is enough
            return thumbnail(opened.convert("RGB"), side)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _inside(folder: Path, group: str) -> Markup | None:
    folder = folder.resolve()
    file = (folder / f"{group}.png").resolve() if "\0" not in group else folder
    return kept_picture(file, SIDE) if file.is_relative_to(folder) else None


def _read_again(data: RunData, missing: dict[str, str]) -> dict[str, Markup]:
    """Pictures of groups from the run's own data, which runs no command and is read up to a limit."""
    config = _data_config(data.config)
    found: dict[str, Markup] = {}
    if config is None or not missing:
        return found
    try:
        for raw in itertools.islice(_rows(config, set(missing.values())), MOST_ROWS):
            if raw.error is not None or (group := group_name(group_of(raw, config))) not in missing or group in found:
                continue
            try:
                found[group] = thumbnail(decode_image(raw.image, config), SIDE)
            except BadSample:
                continue
            if len(found) == len(missing):
                break
    except (SettingsError, OSError, ValueError) as error:
        data.notes.append(f"pictures that the run did not keep are not shown: {str(error).splitlines()[0]}")
    return found


def _data_config(config: str | None) -> DataConfig | None:
    try:
        values: Any = yaml.safe_load(config or "")
        read = DataConfig.model_validate(values["data"])
    except (yaml.YAMLError, TypeError, KeyError, ValidationError, RecursionError):
        return None
    return read.model_copy(update={"allow_pipe": False, "keep_list": None})


def _rows(config: DataConfig, shards: set[str]) -> Iterator[RawRow]:
    if config.format == "webdataset":
        # Only the data's own shards on disk: a table names others at most because somebody wrote it so.
        own = [shard for shard in expand_paths(config.path) if "://" not in shard and printable(shard) in shards]
        for shard in own[:MOST_SHARDS]:
            yield from read_shard(shard, config)
        return
    if config.format == "hf" and not all(Path(p).is_dir() for p in _paths(config.path)):
        return  # a page downloads nothing
    source: Any = open_source(config.path, config)
    for part in range(len(source)):
        yield from source.read(part)


def _paths(path: str | list[str]) -> list[str]:
    return [path] if isinstance(path, str) else path
