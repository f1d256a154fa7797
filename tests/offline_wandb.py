"""Reads the file of an offline W&B run."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

__all__ = ["logged_rows", "records"]


def records(file: Path) -> Iterator[Any]:
    """Records of a .wandb file: LevelDB's log format (32 KiB blocks; crc, length, type before each piece)."""
    data, place, parts = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if kind == 0:
            break
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def logged_rows(file: Path, patience: float = 20.0) -> list[dict[str, Any]]:
    """Every logged row of a run that has ended: name, nested names joined by slashes, to value.

    On a busy machine W&B's own process may write the end of the file a moment after the run has finished here.
    """
    end = time.monotonic() + patience
    while not any(record.HasField("exit") for record in records(file)) and time.monotonic() < end:
        time.sleep(0.1)
    found = [record.history.item for record in records(file) if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in found]
