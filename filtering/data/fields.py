"""What every kind of source checks about a sample's fields before it is decoded: names, sizes, captions."""

from __future__ import annotations

import codecs
from typing import Final

from memsieve.filtering.data.config import DataConfig

__all__ = [
    "MAX_CAPTIONS",
    "MAX_JSON_BYTES",
    "STATUSES",
    "BadSample",
    "check_captions",
    "check_image_size",
    "field_names",
    "printable",
    "suffix_names",
]

MAX_JSON_BYTES: Final = 2**20
"""A sample's json is metadata; a larger one is not read."""
MAX_CAPTIONS: Final = 1000
"""Captions of one image; a longer list is refused."""

STATUSES: Final = (
    "ok",
    "no_caption",
    "bad_caption",
    "no_image",
    "bad_image",
    "bad_sample",
    "truncated",
    "unreachable",
    "not_finite",
)
"""What can be said of a sample in one word: usable; caption missing, unusable; image missing, unusable; its members do
not make a sample (links, names that come twice); its shard ends or is damaged there; its bytes could not be fetched
(the file system or network failed, not the data); the model's output for it is not finite."""


class BadSample(ValueError):
    """A sample cannot be used; the message is one sentence that says why, ``status`` one of ``STATUSES``."""

    def __init__(self, message: str, status: str = "bad_sample") -> None:
        super().__init__(message)
        self.status = status


def field_names(setting: str) -> list[str]:
    """Split ``a;b;c`` of a data setting into its names, in order."""
    return [name.strip() for name in setting.split(";") if name.strip()]


def suffix_names(setting: str) -> list[str]:
    """The names of a data setting as they are compared with the suffixes of files and members: in lower case, without
    a dot in front. ``json.NAME`` keeps its NAME, which is a key and no suffix."""
    names = [name.lstrip(".") for name in field_names(setting)]
    return [name if name.startswith("json.") else name.lower() for name in names]


def printable(name: str) -> str:
    """``name`` with the bytes that are not UTF-8 spelt out, so that it can be written to a ledger."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def check_image_size(size: int, config: DataConfig) -> None:
    """Refuse an encoded image of ``size`` bytes that is empty or over ``max_image_bytes``.

    Raises:
        BadSample: the size is 0 or over the limit.
    """
    if size == 0:
        raise BadSample("the image is empty (0 bytes)", "bad_image")
    if size > config.max_image_bytes:
        raise BadSample(
            f"the image has {size} bytes, over data.max_image_bytes = {config.max_image_bytes}", "bad_image"
        )


def check_captions(value: object, config: DataConfig, looked_for: str = "") -> list[str]:
    """The captions to train with, at least one of them, stripped: ``value`` is text, UTF-8 bytes, a list of texts, or
    None where there is none. Entries of a list that are None or empty count for nothing.

    Raises:
        BadSample: there is no caption and ``allow_empty_caption`` is off, one is not text or is over
            ``max_caption_bytes``, or there are more than ``MAX_CAPTIONS``.
    """
    values = list(value) if isinstance(value, list | tuple) else [value]
    if len(values) > MAX_CAPTIONS:
        raise BadSample(f"the sample has {len(values)} captions, over {MAX_CAPTIONS}", "bad_caption")
    captions = [text for one in values if one is not None and (text := _caption(one, config))]
    if captions:
        return captions
    if config.allow_empty_caption:
        return [""]
    raise BadSample(f"the sample has no caption (data.caption_key = '{config.caption_key}'{looked_for})", "no_caption")


def _caption(value: object, config: DataConfig) -> str:
    if isinstance(value, bytes):
        try:
            # Notepad and others start a text file with a byte order mark; it is not part of the caption.
            marked = value.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            value = value.decode("utf-16" if marked else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadSample(
                f"the caption is not {'UTF-16' if marked else 'UTF-8'} text: {error.reason} at byte {error.start}",
                "bad_caption",
            ) from None
    if not isinstance(value, str):
        raise BadSample(f"the caption is a {type(value).__name__}, not text", "bad_caption")
    caption = value.strip()
    try:
        size = len(caption.encode("utf-8"))
    except UnicodeEncodeError:
        # JSON can spell half of a surrogate pair, which no tokenizer or file accepts later.
        raise BadSample("the caption holds half of a surrogate pair, which is not text", "bad_caption") from None
    if size > config.max_caption_bytes:
        raise BadSample(
            f"the caption has {size} bytes, over data.max_caption_bytes = {config.max_caption_bytes}", "bad_caption"
        )
    return caption
