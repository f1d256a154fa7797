"""A near-duplicate differs from its pair in its picture, and in nothing else."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.copying.samples import Row
from benchmarks.quality.samples import near_duplicate


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int64)


def drawn(colour: str = "#b05040") -> bytes:
    """A disc on white, to the left of the middle."""
    image = Image.new("RGB", (32, 32), "white")
    ImageDraw.Draw(image).ellipse((8, 10, 19, 21), fill=colour)
    return png(image)


@pytest.fixture
def pair() -> Row:
    return Row("1F345", "paraphrase", 8, drawn(), "big tomato, red and green", "big tomato, red and green", "tomato")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def the_rest(row: Row) -> tuple[str, str, int, str, str]:
    return row.pair, row.case, row.repeats, row.prompt, row.base


def test_a_near_duplicate_is_never_the_same_bytes_and_stays_near(pair: Row, rng: np.random.Generator) -> None:
    """Nearer to its own image, mirrored or not, than to another thing at the same place."""
    own, other = pixels(pair.png), pixels(drawn("#4050b0"))
    for _ in range(40):
        row = near_duplicate(pair, rng)
        assert row.png != pair.png and row.caption == pair.caption and the_rest(row) == the_rest(pair)
        seen = pixels(row.png)
        assert seen.shape == own.shape
        near = min(np.abs(seen - own).mean(), np.abs(seen[:, ::-1] - own).mean())
        assert near < min(np.abs(seen - other).mean(), np.abs(seen[:, ::-1] - other).mean())
