"""One entry of a prompt file, and the text of such a file: any Unicode encoding, bounded, no entry lost silently."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["COLUMNS", "MAX_FILE_BYTES", "MAX_ROWS", "PromptRow", "field_of", "file_text", "prompt_row", "text_lines"]

COLUMNS: Final = ("prompt", "caption", "text")
"""Names that a prompt stands under, in the order in which they are looked for; capitals do not matter."""
MAX_PROMPT_BYTES: Final = 65_536
MAX_FILE_BYTES: Final = 256 * 2**20
MAX_ROWS: Final = 10_000_000
_MARKS: Final = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF8, "UTF-8-SIG"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One entry of a prompt file: ``line`` counts from 1; ``error`` says why it cannot be used."""

    line: int
    prompt: str
    group: str | None = None
    error: str | None = None


def prompt_row(number: int, value: Any, group: Any = None, unit: str = "line") -> PromptRow:
    """The entry ``number`` that holds ``value``; with an error where that is no text to use."""
    named = None if group is None or group == "" else str(group)
    if not isinstance(value, str):
        what = "no prompt" if value is None else f"a value of type {type(value).__name__} instead of a prompt"
        return PromptRow(number, "", named, f"{unit} {number} holds {what}")
    prompt = value.strip()
    if not prompt:
        return PromptRow(number, "", named, f"{unit} {number}: the prompt is empty")
    if "\0" in prompt:
        return PromptRow(number, "", named, f"{unit} {number} holds a NUL character, which is not text")
    try:
        size = len(prompt.encode("utf-8"))
    except UnicodeEncodeError:
        return PromptRow(number, "", named, f"{unit} {number} holds half of a surrogate pair, which is not text")
    if size > MAX_PROMPT_BYTES:
        return PromptRow(number, "", named, f"{unit} {number}: the prompt has {size} bytes, over {MAX_PROMPT_BYTES}")
    return PromptRow(number, prompt, named)


def field_of(entry: dict[str, Any], wanted: tuple[str, ...] = COLUMNS) -> str | None:
    """The key of ``entry`` that is the first of ``wanted``, whatever its capitals; None where there is none."""
    lowered = {key.strip().lower(): key for key in reversed(entry)}
    return next((lowered[name] for name in wanted if name in lowered), None)


def file_text(file: Path, option: str) -> str:
    """The text of a file: UTF-8, or UTF-16 or UTF-32 with a byte-order mark.

    Bytes that are not UTF-8 come as lone surrogates, U+DC80 to U+DCFF, for ``text_lines`` to name their lines.

    Raises:
        ValueError: too large, NUL bytes (binary, or UTF-16 without a mark), or cut off in the middle of a character.
    """
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{option}: '{file}' has {size} bytes, over {MAX_FILE_BYTES}; split it, or use Parquet")
    data = file.read_bytes()
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "UTF-8")
    if encoding.startswith("UTF-8"):
        if (place := data.find(b"\0")) >= 0:
            raise ValueError(
                f"{option}: '{file}' holds NUL bytes, the first at byte {place}, so it is no plain text; if it is "
                "UTF-16, save it with a byte-order mark, or as UTF-8"
            )
        return data.decode(encoding, errors="surrogateescape")
    try:
        return data.decode(encoding, errors="surrogatepass")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{option}: '{file}' begins as {encoding} and is not: {error.reason} at byte {error.start}; it may be cut "
            "off. Save it again as UTF-8"
        ) from None


def text_lines(file: Path, option: str) -> Iterator[tuple[int, str | None]]:
    """The numbered lines of a file; None where one is not UTF-8.

    Raises:
        ValueError: as ``file_text``.
    """
    lines = file_text(file, option).split("\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        yield number, None if is_broken(line) else line.rstrip("\r")


def is_broken(text: str) -> bool:
    """Whether ``file_text`` met bytes there that are not UTF-8."""
    return any("\udc80" <= character <= "\udcff" for character in text) if not text.isascii() else False
