"""Lists of prompts from files, every line accounted for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Final

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.named import kind_of, named_data
from memsieve.filtering.data.shard_paths import expand_paths
from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.data.sources import open_source
from memsieve.inference.prompts.rows import MAX_ROWS, PromptRow, prompt_row, text_lines
from memsieve.inference.prompts.tables import delimited_rows, json_rows, object_row, parquet_rows

__all__ = ["PromptRow", "ordinary_prompts", "read_names", "read_prompts"]

JSON_CAPTIONS: Final = ";".join(f"json.{name}" for name in ("caption", "text", "prompt", "Caption", "TEXT", "Prompt"))
"""Where a sample's caption is looked for that has no text of its own."""


def ordinary_prompts() -> list[str]:
    """The shipped list of ordinary prompts, in English, written for this purpose: none is a caption of a data set."""
    text = (files("memsieve.inference") / "data" / "ordinary_prompts.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


def read_prompts(path: str | Path, option: str = "--prompts") -> list[PromptRow]:
    """The entries of a ``.txt`` (one a line), ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet`` file.

    Those that cannot be used come with their error. A folder of WebDataset shards, or one .tar, gives its distinct
    captions, of a text member or of the sample's json; so do an image folder and a Hugging Face dataset on disk.
    Tables take the prompt from the first of the columns prompt, caption, text, whatever their capitals, and an optional
    column group; a CSV may be separated by ``,``, ``;``, tab or ``|``. Text is UTF-8, or UTF-16 or UTF-32 with a
    byte-order mark. In JSONL a line may also be a plain string.

    Raises:
        ValueError: no such file, another kind of file, too large, no such column, or not one usable prompt in it.
    """
    file = Path(path)
    readers = {".txt": _text, ".jsonl": _jsonl, ".csv": delimited_rows, ".parquet": parquet_rows,
               ".tsv": delimited_rows, ".json": json_rows}  # fmt: skip
    readers[".tar"] = _shards
    read = _folder if file.is_dir() else readers.get(file.suffix.lower())
    if read is None:
        raise ValueError(
            f"{option}: '{file}' must be a .txt, .jsonl, .csv, .parquet file, or a folder of shards (.tsv, .json, one "
            ".tar, an image folder and a Hugging Face dataset on disk are read too)"
        )
    if not file.exists():
        raise ValueError(f"{option}: there is no file '{file}'")
    rows = list(islice(read(file, option), MAX_ROWS + 1))
    if len(rows) > MAX_ROWS:
        raise ValueError(f"{option}: '{file}' holds more than {MAX_ROWS} prompts; split it")
    if all(row.error for row in rows):
        first = f"; the first: {rows[0].error}" if rows else ""
        raise ValueError(f"{option}: '{file}' holds no usable prompt ({len(rows)} lines read{first})")
    return rows


def read_names(path: Path, option: str) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        ValueError: there is no such file, it is no text, or it holds none.
    """
    if not path.is_file():
        raise ValueError(f"{option}: there is no file '{path}'")
    found = []
    for number, line in text_lines(path, option):
        if line is None:
            raise ValueError(f"{option}: line {number} of '{path}' is not UTF-8 text")
        found += [line.strip()] if line.strip() else []
    if not found:
        raise ValueError(f"{option}: '{path}' is empty; name one a line")
    return found


def _text(file: Path, option: str) -> Iterator[PromptRow]:
    for number, line in text_lines(file, option):
        yield prompt_row(number, line) if line is not None else _not_utf8(number)


def _jsonl(file: Path, option: str) -> Iterator[PromptRow]:
    for number, line in text_lines(file, option):
        if line is None:
            yield _not_utf8(number)
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield PromptRow(number, "", None, f"line {number} is not JSON: {error}")
            continue
        yield object_row(number, value)


def _not_utf8(number: int) -> PromptRow:
    return PromptRow(number, "", None, f"line {number} is not UTF-8 text")


def _folder(folder: Path, option: str) -> Iterator[PromptRow]:
    if kind_of(folder) == "webdataset":
        yield from _shards(folder, option)
        return
    source = open_source(str(folder), named_data(str(folder), option=option), option)
    rows = (row for part in range(len(source)) for row in source.read(part))
    yield from _distinct((row.key, row.all_captions, row.error) for row in rows)


def _shards(file: Path, option: str) -> Iterator[PromptRow]:
    yield from _distinct(told for shard in expand_paths(str(file), option) for told in _captions(shard))


def _distinct(samples: Iterable[tuple[str, Sequence[str], str | None]]) -> Iterator[PromptRow]:
    """Distinct captions, numbered by the sample that they come from first; unusable samples with their error."""
    seen: set[str] = set()
    for number, (key, captions, error) in enumerate(samples, 1):
        if error is not None:
            yield PromptRow(number, "", None, f"sample {number} ({key}): {error}")
            continue
        for caption in captions:
            if caption not in seen:
                seen.add(caption)
                yield prompt_row(number, caption, unit="sample")


def _captions(shard: str) -> list[tuple[str, Sequence[str], str | None]]:
    """Key, captions and error of each sample; those without a text member are looked up in their json."""
    config = DataConfig(path=shard)
    found = [(row.index, row.key, row.all_captions, row.error, row.status) for row in read_shard(shard, config)]
    missing = {index for index, *_, status in found if status == "no_caption"}
    told: dict[int, tuple[Sequence[str], str | None]] = {}
    if missing:
        config = config.model_copy(update={"caption_key": f"{config.caption_key};{JSON_CAPTIONS}"})
        told = {row.index: (row.all_captions, row.error) for row in read_shard(shard, config, only=missing)}
    return [(key, *told.get(index, (captions, error))) for index, key, captions, error, _ in found]
