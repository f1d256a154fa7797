"""``metadata.jsonl`` and ``metadata.csv`` of an image folder, as Hugging Face's imagefolder reads them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from memsieve.filtering.data.fields import MAX_JSON_BYTES

__all__ = ["METADATA_FILES", "MetaRow", "read_metadata"]

METADATA_FILES: Final = ("metadata.jsonl", "metadata.csv")
"""In the order in which they count where both name an image."""
_DELIMITERS: Final = ",;\t"


@dataclass(frozen=True, slots=True)
class MetaRow:
    """What a metadata file says of one image: its ``name`` relative to the root, with slashes; ``file`` is the
    metadata file. ``error`` where the line cannot be used, ``name`` is then that line's own."""

    name: str
    file: str
    meta: dict[str, Any] | None = None
    error: str | None = None


def read_metadata(root: Path, path: Path) -> Iterator[MetaRow]:
    """The rows of the metadata file at ``path``, whose names are relative to its folder."""
    where = path.relative_to(root).as_posix()
    seen: set[str] = set()
    for number, value in _jsonl(path) if path.suffix == ".jsonl" else _csv(path):
        line = f"line {number} of {where}"
        label = f"{where}:{number}"
        if isinstance(value, str):
            yield MetaRow(label, where, error=f"{line} {value}")
            continue
        file_name = value.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            yield MetaRow(label, where, error=f"{line} has no file_name")
            continue
        relative = PurePosixPath(where).parent / file_name
        if relative.is_absolute() or ".." in relative.parts:
            yield MetaRow(label, where, error=f"{line}: '{file_name}' leaves the folder")
        elif str(relative) in seen:
            yield MetaRow(label, where, error=f"{line}: '{file_name}' is named twice")
        else:
            seen.add(str(relative))
            yield MetaRow(str(relative), where, value)


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line number, the line's object, or what is wrong with it)."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_JSON_BYTES + 1):
            number += 1
            if len(line) > MAX_JSON_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_JSON_BYTES)
                yield number, f"has over {MAX_JSON_BYTES} bytes"
                continue
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"is not JSON: {error}"
                continue
            yield number, value if isinstance(value, dict) else {}


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """As ``_jsonl``. The columns are parted by commas, semicolons or tabs; the csv module bounds a field's length."""
    # Bytes that are no UTF-8 come through as they are: in file names they are right, in captions they are refused.
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        first = file.readline(MAX_JSON_BYTES)
        delimiter = next((d for d in _DELIMITERS if "file_name" in next(csv.reader([first], delimiter=d), [])), ",")
        header = next(csv.reader([first], delimiter=delimiter), [])
        if "file_name" not in header:
            yield 1, f"names no column file_name (its columns: {', '.join(header)[:200]})"
            return
        reader = csv.reader(file, delimiter=delimiter)
        try:
            for cells in reader:
                if not cells:
                    continue
                number = reader.line_num + 1
                if len(cells) > len(header):
                    fault = f"has {len(cells)} fields, and the header {len(header)}"
                    yield number, f"{fault}; put a value that holds '{delimiter}' in quotes"
                else:
                    yield number, dict(zip(header, cells, strict=False))
        except csv.Error as error:
            yield reader.line_num + 1, f"ends the reading: {error}"
