"""What a row is known by, and where a stream is after a chunk."""

from __future__ import annotations

import hashlib

from memsieve.filtering.data.rows import Chunk, Place, RawRow, content_id


def test_a_content_id_is_the_first_half_of_the_sha256() -> None:
    assert content_id(b"image") == hashlib.sha256(b"image").hexdigest()[:32]


def test_every_caption_of_a_sample() -> None:
    assert RawRow("k", "s", 0, b"i", "a cat").all_captions == ("a cat",)
    assert RawRow("k", "s", 0, b"i", "a cat", captions=("a cat", "a dog")).all_captions == ("a cat", "a dog")
    assert RawRow("k", "s", 0, error="broken").all_captions == ()


def test_the_place_after_a_chunk() -> None:
    assert Chunk(3, [], [], [], epoch=1, offset=8, ended=True).place == Place(8, True)
