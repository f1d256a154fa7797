"""Perceptual hashes: mirrored ones, the nearest first one, no chains."""

from __future__ import annotations

import io

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageOps

from memsieve.filtering.data.openmoji import draw_pictures
from memsieve.filtering.data.openmoji.names import list_emoji, miniature
from memsieve.filtering.identity.phash import BITS, joined, mirrored


def looks(pngs: list[bytes]) -> np.ndarray:
    images = [Image.open(io.BytesIO(png)).convert("RGB") for png in pngs]
    return np.array([int(str(imagehash.phash(image)), 16) for image in images], dtype=np.uint64)


@pytest.fixture(scope="module")
def emoji() -> list[bytes]:
    pictures, _ = draw_pictures(miniature(list_emoji(), 0, 160), 64, True, None)
    return [picture.png for picture in pictures if picture.vivid]


def mirror_of(png: bytes) -> bytes:
    stream = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(png)).convert("RGB")).save(stream, "PNG")
    return stream.getvalue()


def test_the_hash_of_the_mirrored_image_without_the_image(emoji: list[bytes]) -> None:
    plain, turned = looks(emoji).tolist(), looks([mirror_of(png) for png in emoji]).tolist()
    apart = [(mirrored(a) ^ b).bit_count() for a, b in zip(plain, turned, strict=True)]
    assert np.median(apart) <= 2 and np.quantile(apart, 0.9) <= 4
    unturned = [(a ^ b).bit_count() for a, b in zip(plain, turned, strict=True)]
    assert np.quantile(unturned, 0.75) > 8, "most are not their own mirror image"


def test_the_nearest_first_one_within_the_bits_and_no_chains() -> None:
    base = int("0110" * 16, 2)
    two, four, five = base ^ 0b11, base ^ 0b1111, base ^ 0b11111
    other = int("0011" * 16, 2)
    empty = 1 << 63  # an image without structure
    hashes = np.array([base, other, two, five, four, base, empty, empty], dtype=np.uint64)
    assert joined(hashes, 4, mirror=False).tolist() == [0, 1, 0, 3, 3, 0, 6, 7], "four lies nearer to five than to base"
    assert joined(hashes, 1, mirror=False).tolist() == [0, 1, 2, 3, 3, 0, 6, 7]
    assert joined(hashes, 0, mirror=False).tolist() == [0, 1, 2, 3, 4, 0, 6, 7]
    turned = np.array([base, mirrored(two)], dtype=np.uint64)
    assert joined(turned, 4).tolist() == [0, 0] and joined(turned, 4, mirror=False).tolist() == [0, 1]


def test_it_finds_what_comparing_all_finds() -> None:
    rng = np.random.default_rng(0)
    firsts = rng.integers(0, 1 << 63, 40, dtype=np.uint64)
    flips = [sum(1 << int(b) for b in rng.choice(BITS, rng.integers(0, 8), replace=False)) for _ in range(400)]
    hashes = np.array([int(firsts[rng.integers(40)]) ^ flip for flip in flips], dtype=np.uint64)
    expected: list[int] = []
    for i, value in enumerate(hashes.tolist()):
        leaders = sorted(set(expected))
        apart = {j: (value ^ int(hashes[j])).bit_count() for j in leaders}
        near = min(leaders, key=lambda j: (apart[j], j), default=-1)
        expected.append(near if near >= 0 and apart[near] <= 6 else i)
    assert joined(hashes, 6, mirror=False).tolist() == expected
