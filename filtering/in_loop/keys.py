"""Names of pairs by what their pictures show, for loops whose samples have none."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

__all__ = ["content_key"]


def content_key(picture: Any) -> str:
    """The sha256 of a picture's pixels, in hex: one picture under many file names is one pair.

    Name it *before* random crops and flips: what they cut out differs at every visit, so that no evidence would add
    up.

    Args:
        picture: a PIL image of any mode, or an array or a tensor of pixels.

    Raises:
        TypeError: it is none of these.
    """
    if hasattr(picture, "convert"):
        pixels = np.asarray(picture.convert("RGB"))
    elif hasattr(picture, "detach"):
        pixels = picture.detach().cpu().float().numpy()  # bfloat16 has no numpy
    elif isinstance(picture, np.ndarray):
        pixels = picture
    else:
        raise TypeError(
            f"content_key wants a PIL image, an array or a tensor, not {type(picture).__name__}; a name of your own is "
            "as good, if it names the picture and not the file"
        )
    told = f"{pixels.dtype} {pixels.shape}".encode()
    return hashlib.sha256(told + np.ascontiguousarray(pixels).tobytes()).hexdigest()
