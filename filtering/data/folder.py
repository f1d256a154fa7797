"""Image folders: files with a same-name .txt, or a metadata.jsonl as Hugging Face's imagefolder reads it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filtering.data.config import DataConfig
from filtering.data.fields import BadSample, check_caption, check_image_size, field_names, printable
from filtering.data.rows import RawRow
from filtering.settings import SettingsError

__all__ = ["FolderSource"]


@dataclass(frozen=True, slots=True)
class _Entry:
    root: Path
    name: str  # relative to root, with slashes
    meta: dict[str, Any] | None
    error: str | None = None


class FolderSource:
    """Images under one or more folders, sorted by relative path; a row's ``key`` is that path without its suffix.

    Map-style: ``len(source)``, ``source.row(i)``. Images that metadata.jsonl names but the folder lacks are rows
    with ``error``, as are its lines that cannot be read.

    Raises:
        SettingsError: the folder does not exist or holds no image.
    """

    indexed = True

    def __init__(self, path: str | list[str], config: DataConfig, option: str = "data.path") -> None:
        self.config = config
        self.identity = [path] if isinstance(path, str) else list(path)
        self._entries: list[_Entry] = []
        for name in self.identity:
            root = Path(name).expanduser()
            if not root.is_dir():
                raise SettingsError(f"{option} = '{name}' is not a folder; data.format = 'folder' needs one")
            entries = list(_entries(root, config))
            if not entries:
                kinds = ", ".join(field_names(config.image_key))
                raise SettingsError(f"{option} = '{name}' holds no image with a suffix of data.image_key ({kinds})")
            self._entries.extend(entries)
        self._stems = Counter((entry.root, _stem(entry.name)) for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def count_rows(self) -> int:
        """Images under the folders, unusable ones included."""
        return len(self)

    def read(self, part: int) -> Iterator[RawRow]:
        """Each image is a part of its own."""
        yield self.row(part)

    def row(self, index: int) -> RawRow:
        """Row ``index``, read from disk now."""
        entry = self._entries[index]
        relative = PurePosixPath(entry.name)
        key, shard = printable(_stem(entry.name)), printable(str(relative.parent))
        try:
            if entry.error is not None:
                raise BadSample(entry.error)
            if self._stems[entry.root, _stem(entry.name)] > 1:
                raise BadSample(f"several images share the name '{key}' without suffix, and so its caption")
            file = entry.root / entry.name
            check_image_size(file.stat().st_size, self.config)
            caption = check_caption(self._caption(entry), self.config)
            return RawRow(key, shard, index, file.read_bytes(), caption, entry.meta or {})
        except OSError as error:
            return RawRow(
                key, shard, index, error=f"the image cannot be read: {error.strerror or error}", status="bad_image"
            )
        except BadSample as error:
            return RawRow(key, shard, index, error=printable(str(error)), status=error.status)

    def files(self, index: int) -> list[Path]:
        """The files that row ``index`` is read from: its image, the .txt beside it, the folder's metadata.jsonl."""
        entry = self._entries[index]
        image = entry.root / entry.name
        return [image, image.with_suffix(".txt"), *([] if entry.meta is None else [entry.root / "metadata.jsonl"])]

    def _caption(self, entry: _Entry) -> object:
        for name in field_names(self.config.caption_key):
            value = (entry.meta or {}).get(name.removeprefix("json."))
            if value is not None:
                return value
        text = (entry.root / entry.name).with_suffix(".txt")
        if not text.is_file():
            return None
        if text.stat().st_size > self.config.max_caption_bytes + 16:
            limit = self.config.max_caption_bytes
            raise BadSample(
                f"the caption has {text.stat().st_size} bytes, over data.max_caption_bytes = {limit}", "bad_caption"
            )
        return text.read_bytes()


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _entries(root: Path, config: DataConfig) -> Iterator[_Entry]:
    suffixes = {f".{name.lower()}" for name in field_names(config.image_key)}
    found: dict[str, _Entry] = {}
    metas: dict[str, _Entry] = {}
    for folder, folders, files in os.walk(root):
        folders.sort()
        for file in sorted(files):
            path = Path(folder, file)
            name = path.relative_to(root).as_posix()
            if path.suffix.lower() in suffixes and not file.startswith("."):
                found[name] = _Entry(root, name, None)
            elif file == "metadata.jsonl":
                metas.update((entry.name, entry) for entry in _read_metadata(root, path))
    for name, entry in metas.items():
        error = entry.error
        if error is None and name not in found and not (root / name).is_file():
            error = "metadata.jsonl names an image that is not in the folder"
        found[name] = _Entry(root, name, entry.meta, error)
    yield from (found[name] for name in sorted(found))


def _read_metadata(root: Path, path: Path) -> Iterator[_Entry]:
    where = path.relative_to(root)
    seen: set[str] = set()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            label = f"{where.as_posix()}:{number}"
            try:
                meta = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield _Entry(root, label, None, f"line {number} of {where} is not JSON: {error}")
                continue
            file_name = meta.get("file_name") if isinstance(meta, dict) else None
            if not isinstance(file_name, str) or not file_name:
                yield _Entry(root, label, None, f"line {number} of {where} has no file_name")
                continue
            relative = PurePosixPath(where.parent.as_posix()) / file_name
            if relative.is_absolute() or ".." in relative.parts:
                yield _Entry(root, label, None, f"line {number} of {where}: '{file_name}' leaves the folder")
            elif str(relative) in seen:
                yield _Entry(root, label, None, f"line {number} of {where}: '{file_name}' is named twice")
            else:
                seen.add(str(relative))
                yield _Entry(root, str(relative), meta)
