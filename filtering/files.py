"""Small files of our own: written whole or not at all, and read back after whatever stopped the one who wrote them."""

from __future__ import annotations

import glob
import json
import os
import shlex
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["read_json_lines", "write_json", "write_whole"]


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


def write_whole(path: Path, text: str) -> None:
    """Write a small file under a temporary name, flush it to disk, rename it."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)  # of a process that was killed
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """``write_whole`` of a value as JSON."""
    write_whole(path, json.dumps(value, indent=2) + "\n")
