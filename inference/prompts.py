"""Lists of prompts from files, every line accounted for, and which prompts of a list are near-identical."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filtering.data.config import DataConfig
from filtering.data.shards import expand_paths, read_shard

__all__ = ["PromptRow", "ordinary_prompts", "prompt_groups", "read_prompts"]

COLUMNS: Final = ("prompt", "caption", "text")
MAX_PROMPT_BYTES: Final = 65_536
_STOP: Final = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "and",
        "or",
        "with",
        "by",
        "from",
        "photo",
        "image",
        "picture",
        "is",
        "his",
        "her",
        "its",
    ]
)


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One entry of a prompt file: ``line`` counts from 1; ``error`` says why it cannot be used."""

    line: int
    prompt: str
    group: str | None = None
    error: str | None = None


def ordinary_prompts() -> list[str]:
    """The shipped list of ordinary prompts, in English, written for this purpose: none is a caption of a data set."""
    text = (files("inference") / "data" / "ordinary_prompts.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


def read_prompts(path: str | Path, option: str = "--prompts") -> list[PromptRow]:
    """The entries of a ``.txt`` (one a line), ``.jsonl``, ``.csv`` or ``.parquet`` file, bad ones with their error.

    A folder of WebDataset shards gives its distinct captions. Tables take the prompt from the first of the columns
    prompt, caption, text, and an optional column group. In JSONL a line may also be a plain string.

    Raises:
        ValueError: no such file, another kind of file, no such column, or not one usable prompt in it.
    """
    file = Path(path)
    if file.is_dir():
        return list(_shards(file, option))
    readers = {".txt": _text, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if file.suffix.lower() not in readers:
        raise ValueError(f"{option}: '{file}' must be a {', '.join(readers)} file, or a folder of shards")
    if not file.is_file():
        raise ValueError(f"{option}: there is no file '{file}'")
    rows = list(readers[file.suffix.lower()](file, option))
    if all(row.error for row in rows):
        first = f"; the first: {rows[0].error}" if rows else ""
        raise ValueError(f"{option}: '{file}' holds no usable prompt ({len(rows)} lines read{first})")
    return rows


def _row(line: int, value: Any, group: Any = None) -> PromptRow:
    named = None if group is None or group == "" else str(group)
    if not isinstance(value, str):
        what = "no prompt" if value is None else f"a value of type {type(value).__name__} instead of a prompt"
        return PromptRow(line, "", named, f"line {line} holds {what}")
    prompt = value.strip()
    if not prompt:
        return PromptRow(line, "", named, f"line {line}: the prompt is empty")
    try:
        size = len(prompt.encode("utf-8"))
    except UnicodeEncodeError:
        return PromptRow(line, "", named, f"line {line} holds half of a surrogate pair, which is not text")
    if size > MAX_PROMPT_BYTES:
        return PromptRow(line, "", named, f"line {line}: the prompt has {size} bytes, over {MAX_PROMPT_BYTES}")
    return PromptRow(line, prompt, named)


def _lines(file: Path) -> Iterator[tuple[int, str | None]]:
    """Numbered lines; None where a line is not UTF-8."""
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield number, None


def _text(file: Path, option: str) -> Iterator[PromptRow]:
    for number, line in _lines(file):
        yield _row(number, line) if line is not None else _not_utf8(number)


def _jsonl(file: Path, option: str) -> Iterator[PromptRow]:
    for number, line in _lines(file):
        if line is None:
            yield _not_utf8(number)
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield PromptRow(number, "", None, f"line {number} is not JSON: {error}")
            continue
        if isinstance(value, dict):
            name = next((column for column in COLUMNS if column in value), None)
            if name is None:
                yield PromptRow(number, "", None, f"line {number} has none of the fields {', '.join(COLUMNS)}")
            else:
                yield _row(number, value[name], value.get("group"))
        else:
            yield _row(number, value)


def _csv(file: Path, option: str) -> Iterator[PromptRow]:
    with file.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        reader = csv.reader(stream)
        try:
            header = [name.strip().lower() for name in next(reader, [])]
            column = _column(header, file, option)
            group = header.index("group") if "group" in header else None
            for cells in reader:
                if len(cells) <= column:
                    problem = f"line {reader.line_num} has {len(cells)} of {len(header)} columns"
                    yield PromptRow(reader.line_num, "", None, problem)
                    continue
                named = cells[group] if group is not None and group < len(cells) else None
                row = _row(reader.line_num, cells[column], named)
                broken = "�" in row.prompt
                yield _not_utf8(reader.line_num) if broken else row
        except csv.Error as error:
            yield PromptRow(reader.line_num, "", None, f"line {reader.line_num} is not CSV, reading stops: {error}")


def _parquet(file: Path, option: str) -> Iterator[PromptRow]:
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            lowered = [name.lower() for name in names]
            wanted = [names[_column(lowered, file, option)]]
            wanted += [names[lowered.index("group")]] if "group" in lowered else []
            number = 0
            for batch in table.iter_batches(columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield _row(number, row[wanted[0]], row[wanted[1]] if len(wanted) > 1 else None)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{option}: '{file}' cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _shards(folder: Path, option: str) -> Iterator[PromptRow]:
    """Distinct captions, numbered by the sample that they come from first; unusable samples with their error."""
    seen: set[str] = set()
    number = 0
    for shard in expand_paths(str(folder), option):
        for sample in read_shard(shard, DataConfig(path=shard)):
            number += 1
            if sample.error is not None:
                yield PromptRow(number, "", None, f"sample {number} ({sample.key}): {sample.error}")
                continue
            for caption in sample.all_captions:
                if caption and caption not in seen:
                    seen.add(caption)
                    yield PromptRow(number, caption)


def _column(names: Sequence[str], file: Path, option: str) -> int:
    for name in COLUMNS:
        if name in names:
            return list(names).index(name)
    raise ValueError(f"{option}: '{file}' has the columns {', '.join(names) or 'none'}; one must be {COLUMNS}")


def _not_utf8(number: int) -> PromptRow:
    return PromptRow(number, "", None, f"line {number} is not UTF-8 text")


def prompt_groups(prompts: Sequence[str], alike: float = 0.6) -> list[int]:
    """A group number for each prompt, equal for near-identical prompts, [N].

    Two prompts belong together where their first two content words agree (series from one template: of a public list
    of 500 memorised prompts 148 begin "Shaw Floors"), or where the overlap of their word sets (Jaccard) is at least
    ``alike``; groups are the connected components.
    """
    words = [re.findall(r"\w+", prompt.lower()) for prompt in prompts]
    parent = list(range(len(prompts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, ...], int] = {}
    for i, found in enumerate(words):
        content = tuple([word for word in found if word not in _STOP][:2]) or tuple(found)
        parent[root(i)] = root(first.setdefault(content, i))
    vocabulary = {word: k for k, word in enumerate(dict.fromkeys(word for found in words for word in found))}
    present = np.zeros((len(prompts), max(len(vocabulary), 1)), dtype=np.float32)
    for i, found in enumerate(words):
        present[i, [vocabulary[word] for word in found]] = 1
    sizes = present.sum(1)
    for start in range(0, len(prompts), 256):
        shared = present[start : start + 256] @ present.T
        union = sizes[start : start + 256, None] + sizes[None, :] - shared
        for i, j in np.argwhere(shared >= alike * np.maximum(union, 1)):
            parent[root(start + int(i))] = root(int(j))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(i), len(numbers)) for i in range(len(prompts))]
