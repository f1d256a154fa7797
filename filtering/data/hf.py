"""Hugging Face datasets: a folder written by ``save_to_disk``, or whatever ``load_dataset`` takes by name."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Iterator
from typing import Any

import datasets

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.fields import BadSample, check_captions, check_image_size, field_names, printable
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.settings import SettingsError

__all__ = ["HFSource"]


class HFSource:
    """Rows of one or more datasets with an image column and a caption column, images left encoded.

    Map-style: ``len(source)``, ``source.row(i)``. The columns are the first of ``image_key`` and ``caption_key``
    that exist; where no name fits, the only column of Image type is the image. ``key`` is the ``__key__`` column, or
    the row's number.

    Raises:
        SettingsError: the dataset cannot be loaded, or has no such split or columns.
    """

    indexed = True

    def __init__(self, path: str | list[str], config: DataConfig, option: str = "data.path") -> None:
        self.config = config
        self.identity = [path] if isinstance(path, str) else list(path)
        self._parts: list[tuple[str, Any, str, str | None]] = []
        for name in self.identity:
            data = _load(name, config, option)
            image, caption = _columns(name, data, config)
            if isinstance(data.features[image], datasets.Image):
                data = data.cast_column(image, datasets.Image(decode=False))
            # Only these columns are read: a row of a wide dataset can hold more than its image.
            keep = [column for column in (image, caption, "__key__") if column in data.column_names]
            self._parts.append((name, data.select_columns(keep), image, caption))
        self._ends = list(itertools.accumulate(len(part[1]) for part in self._parts))
        if not self._ends[-1]:
            raise SettingsError(f"{option} = {path!r} has no rows in split '{config.split}'")

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def fingerprint(self) -> str:
        """Changes whenever the rows do, by what the datasets library knows of them."""
        return " ".join(f"{data._fingerprint}:{len(data)}" for _, data, *_ in self._parts)

    def count_rows(self) -> int:
        """Rows of the datasets, unusable ones included."""
        return len(self)

    def read(self, part: int) -> Iterator[RawRow]:
        """Each row is a part of its own."""
        yield self.row(part)

    def row(self, index: int) -> RawRow:
        """Row ``index``, read now; ``index`` of the row counts within its own dataset."""
        part = bisect.bisect_right(self._ends, index)
        name, data, image, caption = self._parts[part]
        local = index - (self._ends[part - 1] if part else 0)
        values = data[local]
        key = printable(str(values.get("__key__") or f"{local:08d}"))
        try:
            encoded = _encoded(values[image], self.config)
            texts = check_captions(values[caption] if caption is not None else None, self.config)
            several = tuple(texts) if len(texts) > 1 else ()
            return RawRow(key, name, local, encoded, texts[0], captions=several)
        except OSError as error:
            return RawRow(
                key, name, local, error=f"the image cannot be read: {error.strerror or error}", status="bad_image"
            )
        except BadSample as error:
            return RawRow(key, name, local, error=printable(str(error)), status=error.status)


def _load(name: str, config: DataConfig, option: str) -> Any:
    folder = os.path.expanduser(name)
    try:
        if os.path.isfile(os.path.join(folder, "dataset_dict.json")):
            splits = datasets.load_from_disk(folder)
            if config.split not in splits:
                raise SettingsError(
                    f"data.split = '{config.split}' is not in '{name}'; its splits: {', '.join(map(str, splits))}"
                )
            return splits[config.split]
        if os.path.isfile(os.path.join(folder, "state.json")):
            return datasets.load_from_disk(folder)
        return datasets.load_dataset(folder if os.path.exists(folder) else name, split=config.split)
    except SettingsError:
        raise
    # DatasetNotFoundError, DataFilesNotFoundError and connection errors are OSErrors; a wrong split is a ValueError.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        what = f"cannot be loaded as a dataset (split '{config.split}')"
        raise SettingsError(f"{option} = '{name}' {what}: {error}") from error


def _columns(name: str, data: Any, config: DataConfig) -> tuple[str, str | None]:
    columns = list(data.column_names)
    images = _named(field_names(config.image_key), columns)
    if not images:
        images = [column for column in columns if isinstance(data.features[column], datasets.Image)]
        if len(images) != 1:
            raise SettingsError(
                f"data.image_key = '{config.image_key}' names no column of '{name}'; its columns: {', '.join(columns)}"
            )
    wanted = [column.removeprefix("json.") for column in field_names(config.caption_key)]
    captions = _named(wanted, columns)
    if not captions and not config.allow_empty_caption:
        raise SettingsError(
            f"data.caption_key = '{config.caption_key}' names no column of '{name}'; its columns: {', '.join(columns)}"
        )
    return images[0], captions[0] if captions else None


def _named(wanted: list[str], columns: list[str]) -> list[str]:
    """The columns that ``wanted`` names, in its order: as they are written, else but for the case of letters."""
    exact = [name for name in wanted if name in columns]
    return exact or [column for name in wanted for column in columns if column.lower() == name.lower()]


def _encoded(value: object, config: DataConfig) -> bytes:
    if isinstance(value, bytes):
        data: bytes | None = value
    elif isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        if data is None and isinstance(path, str):
            if "://" in path:
                raise BadSample(f"the image lies at '{path}' and not in the dataset; embed it first", "no_image")
            check_image_size(os.path.getsize(path), config)
            with open(path, "rb") as file:
                data = file.read()
    else:
        data = None
    if data is None:
        raise BadSample("the row has no image", "no_image")
    check_image_size(len(data), config)
    return data
