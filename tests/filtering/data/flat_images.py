"""Flat pictures in any format, and their colour as the model sees it."""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import decode_row
from memsieve.filtering.data.rows import RawRow, Row


def config(**values: Any) -> DataConfig:
    return DataConfig(**{"path": "unused", "resolution": 8, **values})


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decode(data: bytes, offset: int = 0, seed: int = 0, **values: Any) -> Row:
    return decode_row(RawRow("k", "s", 3, data, "a cat"), config(**values), 1, 2, offset, seed)


def levels(data: bytes) -> list[int]:
    """The colour of a flat image as the model sees it, back in 0..255."""
    pixels = decode(data).pixels
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == torch.float32
    assert (pixels - pixels[:, :1, :1]).abs().max() < 0.05
    return [round(float(value)) for value in (pixels[:, 4, 4] + 1) * 127.5]
