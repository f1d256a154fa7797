"""Which images an image folder holds, and which files beside them say what they show."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.fields import suffix_names
from memsieve.filtering.data.folder.metadata import METADATA_FILES, MetaRow, read_metadata
from memsieve.filtering.data.folder.walk import LeftOut, walk

__all__ = ["Entry", "caption_fields", "list_images", "stem_of"]

SIDECARS: Final = ("txt", "caption", "json")
"""Suffixes of caption files that are read whatever ``data.caption_key`` names, after those that it names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image, or one line of metadata that cannot be used (``error``)."""

    root: Path
    name: str
    """Relative to ``root``, with slashes."""
    meta: dict[str, Any] | None = None
    meta_file: str | None = None
    sidecars: tuple[str, ...] = ()
    """Caption files of the same name but for the suffix, the one that counts first."""
    twin: bool = False
    """Another image has the same name but for the suffix."""
    error: str | None = None


def stem_of(name: str) -> str:
    """A name without its last suffix."""
    return str(PurePosixPath(name).with_suffix(""))


def caption_fields(config: DataConfig) -> tuple[str, ...]:
    """Fields of metadata that may hold the caption, in order."""
    return tuple(dict.fromkeys(name.removeprefix("json.") for name in suffix_names(config.caption_key)))


def list_images(root: Path, config: DataConfig, left_out: LeftOut) -> list[Entry]:
    """The images below ``root``, sorted by relative path, among them those that metadata names and the folder lacks.

    What is found and not used is counted in ``left_out``.
    """
    kinds = set(suffix_names(config.image_key))
    order = _sidecar_order(config)
    images: set[str] = set()
    others: dict[str, str] = {}
    beside: dict[str, list[str]] = defaultdict(list)
    metas: dict[str, MetaRow] = {}
    for folder, files in walk(root, left_out):
        base = folder.relative_to(root)
        for file in files:
            name, suffix = (base / file).as_posix(), PurePosixPath(file).suffix.lower().removeprefix(".")
            if suffix in kinds:
                images.add(name)
            elif suffix in order:
                beside[stem_of(name)].append(name)
            elif file not in METADATA_FILES:
                others[name] = f".{suffix}" if suffix else "no suffix"
        _add_metadata(root, folder, files, metas, left_out)
    others = {name: suffix for name, suffix in others.items() if name not in metas}
    left_out.suffixes.update(others.values())
    entries = _join(root, images, metas, beside, order)
    _count_unused(entries, beside, config, left_out)
    return entries


def _sidecar_order(config: DataConfig) -> dict[str, int]:
    """Suffix of a caption file -> its place: as ``data.caption_key`` has them, then the usual ones."""
    named = ["json" if name.startswith("json.") else name for name in suffix_names(config.caption_key)]
    return {suffix: place for place, suffix in enumerate(dict.fromkeys([*named, *SIDECARS]))}


def _add_metadata(root: Path, folder: Path, files: list[str], metas: dict[str, MetaRow], left_out: LeftOut) -> None:
    for file in METADATA_FILES:
        if file not in files:
            continue
        for row in read_metadata(root, folder / file):
            before = metas.get(row.name)
            if before is not None and before.error is None and row.error is None:
                left_out.unused[row.file] += 1
            else:
                metas[row.name] = row


def _join(
    root: Path, images: set[str], metas: dict[str, MetaRow], beside: dict[str, list[str]], order: dict[str, int]
) -> list[Entry]:
    problems = {name: row.error for name, row in metas.items() if row.error is not None}
    problems |= {
        name: f"{row.file.rpartition('/')[2]} names an image that is not in the folder"
        for name, row in metas.items()
        if row.error is None and name not in images and not (root / name).is_file()
    }
    stems = Counter(stem_of(name) for name in (images | metas.keys()) - problems.keys())

    def rank(name: str) -> tuple[int, bool, str]:
        suffix = PurePosixPath(name).suffix
        return order[suffix.lower().removeprefix(".")], suffix != suffix.lower(), name

    entries = []
    for name in sorted(images | metas.keys()):
        row, stem, error = metas.get(name), stem_of(name), problems.get(name)
        sidecars = () if error is not None else tuple(sorted(beside.get(stem, ()), key=rank))
        meta, file = (row.meta, row.file) if row is not None else (None, None)
        entries.append(Entry(root, name, meta, file, sidecars, stems[stem] > 1, error))
    return entries


def _count_unused(entries: list[Entry], beside: dict[str, list[str]], config: DataConfig, left_out: LeftOut) -> None:
    fields = caption_fields(config)
    with_image: set[str] = set()
    used: set[str] = set()
    for entry in entries:
        if entry.error is not None:
            continue
        with_image.add(stem_of(entry.name))
        if not any((entry.meta or {}).get(name) for name in fields):
            used.update(entry.sidecars[:1])
    for stem, names in beside.items():
        target = left_out.unused if stem in with_image else left_out.orphans
        target.update(PurePosixPath(name).suffix.lower() for name in names if name not in used)
