"""What a caption, an image's size and a list of names may be."""

from __future__ import annotations

import codecs
from typing import Any

import pytest

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.fields import (
    MAX_CAPTIONS,
    BadSample,
    check_captions,
    check_image_size,
    field_names,
    printable,
    suffix_names,
)


def config(**values: Any) -> DataConfig:
    return DataConfig(path="unused", **values)


def test_names_of_a_setting() -> None:
    assert field_names(" jpg ;; Png;") == ["jpg", "Png"]
    assert suffix_names(".JPG;txt;json.Text") == ["jpg", "txt", "json.Text"]


def test_names_that_are_not_utf8_can_be_written() -> None:
    assert printable("a\udcff.png") == "a\\udcff.png"
    assert printable("größe") == "größe"


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        ("  a cat \n", ["a cat"]),
        (b"a cat", ["a cat"]),
        (codecs.BOM_UTF8 + b"a cat", ["a cat"]),
        (codecs.BOM_UTF16_LE + "a cat".encode("utf-16-le"), ["a cat"]),
        (["a cat", None, " ", "a dog"], ["a cat", "a dog"]),
    ],
)
def test_captions_are_read(value: object, captions: list[str]) -> None:
    assert check_captions(value, config()) == captions


@pytest.mark.parametrize(
    ("value", "status", "message"),
    [
        (None, "no_caption", "the sample has no caption (data.caption_key = 'txt;caption;text'; its fields: png)"),
        ("  ", "no_caption", "no caption"),
        (7, "bad_caption", "the caption is a int, not text"),
        (b"\xff\xfe\x00", "bad_caption", "not UTF-16 text"),
        (b"\xe9", "bad_caption", "not UTF-8 text"),
        ("\ud83d", "bad_caption", "half of a surrogate pair"),
        ("x" * 17, "bad_caption", "17 bytes, over data.max_caption_bytes = 16"),
        (["x"] * (MAX_CAPTIONS + 1), "bad_caption", f"{MAX_CAPTIONS + 1} captions, over {MAX_CAPTIONS}"),
    ],
)
def test_captions_are_refused_with_a_status(value: object, status: str, message: str) -> None:
    with pytest.raises(BadSample) as caught:
        check_captions(value, config(max_caption_bytes=16), "; its fields: png")
    assert caught.value.status == status and message in str(caught.value)


def test_an_empty_caption_where_it_is_allowed() -> None:
    assert check_captions(None, config(allow_empty_caption=True)) == [""]
    assert check_captions(["", "a cat"], config(allow_empty_caption=True)) == ["a cat"]


def test_sizes_of_images() -> None:
    check_image_size(1024, config(max_image_bytes=1024))
    for size, message in ((0, "empty"), (1025, "1025 bytes, over data.max_image_bytes = 1024")):
        with pytest.raises(BadSample, match=message) as caught:
            check_image_size(size, config(max_image_bytes=1024))
        assert caught.value.status == "bad_image"
