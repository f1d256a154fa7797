"""Image folders: captions in a file beside each image, or in a metadata.jsonl or metadata.csv."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.fields import (
    MAX_JSON_BYTES,
    BadSample,
    check_captions,
    check_image_size,
    printable,
    suffix_names,
)
from memsieve.filtering.data.folder.entries import Entry, caption_fields, list_images, stem_of
from memsieve.filtering.data.folder.walk import LeftOut
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.settings import SettingsError

__all__ = ["FolderSource"]

_log = logging.getLogger(__name__)
_said: set[str] = set()

JSON_FIELDS = ("caption", "text", "prompt")
"""Fields of a ``.json`` beside an image that hold its caption, where ``data.caption_key`` names none (json.NAME)."""


class FolderSource:
    """Images under one or more folders, sorted by relative path; a row's ``key`` is that path without its suffix (with
    it, where two images differ in nothing else).

    The caption of an image is the first that is there of: its row in ``metadata.jsonl`` or ``metadata.csv``; a file of
    the same name with a suffix of ``caption_key``; ``.txt``; ``.caption``; ``.json``. What is found and not used is
    counted in ``left_out``, and said once in a warning.

    Map-style: ``len(source)``, ``source.row(i)``. Images that the metadata names but the folder lacks are rows with
    ``error``, as are its lines that cannot be read.

    Raises:
        SettingsError: the folder does not exist or holds no image.
    """

    indexed = True

    def __init__(self, path: str | list[str], config: DataConfig, option: str = "data.path") -> None:
        self.config = config
        self.identity = [path] if isinstance(path, str) else list(path)
        self.left_out: list[LeftOut] = []
        """For each folder of ``identity``."""
        self._entries: list[Entry] = []
        for name in self.identity:
            root = Path(os.path.expanduser(name))
            if not root.is_dir():
                raise SettingsError(f"{option} = '{name}' is not a folder; data.format = 'folder' needs one")
            left_out = LeftOut()
            entries = list_images(root, config, left_out)
            said = left_out.sentence()
            if not entries:
                kinds = ", ".join(suffix_names(config.image_key))
                raise SettingsError(
                    f"{option} = '{name}' holds no image with a suffix of data.image_key ({kinds})"
                    + (f"; {said}" if said else "")
                )
            if said:
                _say_once(f"{option} = '{name}': {said}")
            self.left_out.append(left_out)
            self._entries.extend(entries)

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
        key = printable(entry.name if entry.twin else stem_of(entry.name))
        shard = printable(str(PurePosixPath(entry.name).parent))
        try:
            if entry.error is not None:
                raise BadSample(entry.error)
            file = entry.root / entry.name
            check_image_size(file.stat().st_size, self.config)
            value, meta = self._caption(entry)
            captions = check_captions(value, self.config)
            several = tuple(captions) if len(captions) > 1 else ()
            return RawRow(key, shard, index, file.read_bytes(), captions[0], meta, captions=several)
        except OSError as error:
            return RawRow(
                key, shard, index, error=f"the image cannot be read: {error.strerror or error}", status="bad_image"
            )
        except BadSample as error:
            return RawRow(key, shard, index, error=printable(str(error)), status=error.status)

    def problem(self, index: int) -> tuple[str, str] | None:
        """Key of row ``index`` and what is wrong with it, by its caption and the size of its file; None for nothing."""
        entry = self._entries[index]
        key = printable(entry.name if entry.twin else stem_of(entry.name))
        try:
            if entry.error is not None:
                raise BadSample(entry.error)
            check_image_size((entry.root / entry.name).stat().st_size, self.config)
            check_captions(self._caption(entry)[0], self.config)
        except (OSError, BadSample) as error:
            return key, printable(str(error))
        return None

    def files(self, index: int) -> list[Path]:
        """The files that row ``index`` is read from: its image, the caption files beside it, the folder's metadata."""
        entry = self._entries[index]
        named = [entry.name, *entry.sidecars, *([entry.meta_file] if entry.meta_file is not None else [])]
        return [entry.root / name for name in named]

    def _caption(self, entry: Entry) -> tuple[object, dict[str, Any]]:
        """What stands for the caption, not checked yet, and what is known of the image besides."""
        meta = dict(entry.meta or {})
        for name in caption_fields(self.config):
            if value := meta.get(name):
                return value, meta
        for name in entry.sidecars:
            value = self._sidecar(entry.root / name)
            if isinstance(value, dict):
                meta = meta or value
                value = next((found for field in self._json_fields() if (found := value.get(field))), None)
            if not value:
                continue
            if entry.twin:
                raise BadSample(
                    f"several images share the name '{stem_of(entry.name)}' without suffix, and so the caption in "
                    f"'{PurePosixPath(name).name}'; rename them, or name each in metadata.jsonl"
                )
            return value, meta
        return None, meta

    def _json_fields(self) -> tuple[str, ...]:
        named = [name[5:] for name in suffix_names(self.config.caption_key) if name.startswith("json.")]
        return tuple(named) or JSON_FIELDS

    def _sidecar(self, file: Path) -> object:
        """The content of a caption file: bytes, or of a ``.json`` what it holds.

        Raises:
            BadSample: it is too large, no JSON, or cannot be read.
        """
        is_json = file.suffix.lower() == ".json"
        option, limit = "data.max_caption_bytes", self.config.max_caption_bytes
        try:
            size = file.stat().st_size
            if is_json and size > MAX_JSON_BYTES:
                raise BadSample(f"'{file.name}' has {size} bytes, over {MAX_JSON_BYTES}", "bad_caption")
            if not is_json and size > limit + 16:  # room for a byte order mark and line ends
                raise BadSample(f"the caption has {size} bytes, over {option} = {limit}", "bad_caption")
            data = file.read_bytes()
        except OSError as error:
            raise BadSample(f"'{file.name}' cannot be read: {error.strerror or error}", "bad_caption") from None
        if not is_json:
            return data.strip()
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadSample(f"'{file.name}' is not JSON: {error}", "bad_caption") from None


def _say_once(sentence: str) -> None:
    """One process of several says it, and once: a run opens its data more than once."""
    if os.environ.get("RANK", "0") == "0" and sentence not in _said:
        _said.add(sentence)
        _log.warning("%s", sentence)
