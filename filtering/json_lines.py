"""JSON Lines files of our own, read back after whatever stopped the process that was writing them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["read_json_lines"]


def read_json_lines(path: Path, note: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """The rows of ``path``, none where there is no file; a last line that was cut off is removed from the file, and
    ``note`` told so.

    Raises:
        ValueError: another line is no JSON object, which is not what a crash leaves.
    """
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    rows = [_row(path, number, line) for number, line in enumerate(whole.splitlines(), 1)]
    if len(whole) < len(data):
        with path.open("r+b") as stream:
            stream.truncate(len(whole))
        if note is not None:
            note(f"'{path}' ended in a line that was cut off; it was removed")
    return rows


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ValueError(
            f"'{path}', line {number}, is no JSON object: {line[:80]!r}; the file was damaged after it was written: "
            f"remove that line (sed -i {number}d {shlex.quote(str(path))}), or restore the file"
        )
    return row
