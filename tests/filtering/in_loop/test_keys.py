"""One picture has one name, whatever carries it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from memsieve import content_key
from memsieve.filtering.types import NAME_BYTES, group_name


def test_a_picture_is_named_by_its_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    name = content_key(Image.fromarray(pixels))
    assert name == content_key(pixels) == content_key(Image.fromarray(pixels).convert("RGBA"))
    other = pixels.copy()
    other[0, 0, 0] ^= 1
    assert name != content_key(other) and name != content_key(pixels.reshape(8, 6, 3))
    assert len(name) <= NAME_BYTES and group_name(name) == name


def test_tensors_of_any_kind_have_names() -> None:
    pixels = torch.randn(3, 4, 4)
    assert content_key(pixels) == content_key(pixels.clone().requires_grad_())
    assert content_key(pixels) != content_key(pixels + 0.1)
    assert content_key(pixels.bfloat16()) == content_key(pixels.bfloat16().float())


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(TypeError, match="wants a PIL image, an array or a tensor, not str"):
        content_key("a.png")
