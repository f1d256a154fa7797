"""Data as a command line names it: shards, one tar, an image folder, a Hugging Face dataset; told apart by a look."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.settings import SettingsError, expand_home

__all__ = ["Format", "kind_of", "named_data"]

Format = Literal["webdataset", "hf", "folder"]


def kind_of(folder: Path) -> Format:
    """What lies in a folder: shards, a Hugging Face dataset as ``save_to_disk`` leaves it, or else pictures."""
    if any(folder.glob("*.tar")) or any(folder.glob("*.tar.*")):
        return "webdataset"
    return "hf" if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file() else "folder"


def named_data(paths: str | list[str], kind: str | None = None, option: str = "--data", **settings: Any) -> DataConfig:
    """The data that a command line names, all of it training data unless ``settings`` hold some out.

    Args:
        paths: one or more of a kind. A file or a pattern means shards, a folder what lies in it.
        kind: webdataset, hf or folder; None looks.
        option: named in messages.
        settings: further ones of ``DataConfig``.

    Raises:
        SettingsError: there is nothing at a path, the paths are of several kinds, or ``kind`` is none of the three.
    """
    listed = [str(expand_home(path)) for path in ([paths] if isinstance(paths, str) else paths)]
    if kind is not None and kind not in get_args(Format):
        raise SettingsError(f"--format = '{kind}': must be one of {', '.join(get_args(Format))}")
    if kind is None:
        kinds = sorted({_look(path, option) for path in listed})
        if len(kinds) != 1:
            raise SettingsError(
                f"{option}: {', '.join(listed)} are of several kinds ({', '.join(kinds)}); name one kind"
            )
        kind = kinds[0]
    path: str | list[str] = listed[0] if len(listed) == 1 else listed
    return DataConfig(**{"format": kind, "path": path, "held_out_fraction": 0.0, **settings})


def _look(path: str, option: str) -> Format:
    if Path(path).is_dir():
        kind = kind_of(Path(path))
        if kind == "folder" and (Path(path) / "truth.parquet").is_file():
            raise SettingsError(
                f"{option}: '{path}' is a dataset with planted pairs; name the shards in '{path}/train' (those never "
                f"trained on are in '{path}/held_out')"
            )
        return kind
    if Path(path).exists() or any(sign in path for sign in "{*?[") or "://" in path or "::" in path:
        return "webdataset"  # a shard, or a pattern of them: what is none is refused where it is opened
    raise SettingsError(
        f"{option}: there is nothing at '{path}'; name shards, one .tar, an image folder or a Hugging Face dataset on "
        "disk (one of the hub by its name with --format hf)"
    )
