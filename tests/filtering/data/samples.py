"""Plain settings and pictures for tests of sources."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from memsieve.filtering.data.config import DataConfig


def config(**values: Any) -> DataConfig:
    return DataConfig(**{"path": "unused", "resolution": 8, "held_out_fraction": 0.0, **values})


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 7)).save(stream, "PNG")
    return stream.getvalue()
