"""Paths in a file of settings are relative to the working folder: said where one is not found, with the one that lies
beside the file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["not_found"]

_PATTERN = re.compile(r"[*?\[{]")


def not_found(error: Exception, raw: dict[str, Any], file: str | Path) -> str | None:
    """What more is said of ``error``: where a relative path of ``raw``, which ``file`` holds, was looked for, and what
    to write if it lies beside ``file``; None where the message is about no such path."""
    message, beside = str(error), Path(file).parent
    for name, value in _texts(raw):
        path = Path(value)
        if not value or f"'{value}'" not in message or path.is_absolute() or "://" in value or _is_there(path):
            continue
        said = f"'{value}' was looked for in the working folder, '{os.getcwd()}'"
        if beside.resolve() != Path.cwd() and _is_there(beside / path):
            return f"{said}; beside {file} there is one: set {name}: {beside / path}, or run the command there"
        if len(path.parts) > 1:  # a single word may be many things
            return said
    return None


def _texts(raw: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All texts of settings with their dotted names."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from _texts(value, f"{name}.{key}" if name else str(key))
    elif isinstance(raw, list):
        for value in raw:
            yield from _texts(value, name)
    elif isinstance(raw, str):
        yield name, raw


def _is_there(path: Path) -> bool:
    """Whether there is such a path; of one with braces or stars the folder before them."""
    parts = []
    for part in path.parts:
        if _PATTERN.search(part):
            break
        parts.append(part)
    try:
        return bool(parts) and Path(*parts).exists()
    except OSError:  # too long for a path
        return False
