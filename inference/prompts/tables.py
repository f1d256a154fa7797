"""Prompts out of tables: CSV with any of the usual delimiters, JSON, Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.inference.prompts.rows import COLUMNS, PromptRow, field_of, file_text, is_broken, prompt_row

__all__ = ["delimited_rows", "json_rows", "object_row", "parquet_rows"]

DELIMITERS: Final = (",", ";", "\t", "|")


def delimited_rows(file: Path, option: str) -> Iterator[PromptRow]:
    """Rows of a ``.csv`` or ``.tsv`` file; the delimiter is the one that its header is split by into known columns."""
    text = file_text(file, option)
    first, _, rest = text.partition("\n")
    told, skipped = first.rstrip("\r"), 0
    if told.lower().startswith("sep=") and len(told) == 5:  # Excel's own way of naming it
        delimiter, text, skipped = told[4], rest, 1
    else:
        delimiter = _delimiter(first, "\t" if file.suffix.lower() == ".tsv" else None)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        column = _column(header, file, option)
        group = header.index("group") if "group" in header else None
        for cells in reader:
            yield _cells_row(reader.line_num + skipped, cells, header, column, group, delimiter)
    except csv.Error as error:
        line, left = reader.line_num + skipped, text.count("\n", 0, len(text) - 1) + 1 - reader.line_num
        problem = f"line {line} is not CSV, reading stops {left} lines before the end: {error}"
        yield PromptRow(line, "", None, problem)


def _delimiter(header: str, told: str | None) -> str:
    for delimiter in DELIMITERS if told is None else (told,):
        names = next(csv.reader([header], delimiter=delimiter), [])
        if {name.strip().lower() for name in names} & set(COLUMNS):
            return delimiter
    return told or ","


def _cells_row(
    line: int, cells: list[str], header: list[str], column: int, group: int | None, delimiter: str
) -> PromptRow:
    if len(cells) <= column:
        return PromptRow(line, "", None, f"line {line} has {len(cells)} of {len(header)} columns")
    if any(cell.strip() for cell in cells[len(header) :]):
        problem = f"line {line} has {len(cells)} columns, the header {len(header)}"
        return PromptRow(line, "", None, f"{problem}: put a value that holds {delimiter!r} in quotes")
    if is_broken(cells[column]):
        return PromptRow(line, "", None, f"line {line} is not UTF-8 text")
    return prompt_row(line, cells[column], cells[group] if group is not None and group < len(cells) else None)


def _column(names: Sequence[str], file: Path, option: str) -> int:
    for name in COLUMNS:
        if name in names:
            return list(names).index(name)
    shown = ", ".join(name[:40] for name in names[:20]) or "none"
    raise ValueError(f"{option}: '{file}' has the columns {shown}; one must be {COLUMNS}")


def object_row(number: int, value: Any, unit: str = "line") -> PromptRow:
    """The row of a JSON value: a text, or an object with one of the known fields."""
    if not isinstance(value, dict):
        return prompt_row(number, value, unit=unit)
    name = field_of(value)
    if name is None:
        return PromptRow(number, "", None, f"{unit} {number} has none of the fields {', '.join(COLUMNS)}")
    named = field_of(value, ("group",))
    return prompt_row(number, value[name], None if named is None else value[named], unit)


def json_rows(file: Path, option: str) -> Iterator[PromptRow]:
    """Entries of a ``.json`` file: a list of texts or of objects, or an object of columns.

    Raises:
        ValueError: it is not JSON, or holds something else.
    """
    text = file_text(file, option)
    if is_broken(text):
        raise ValueError(f"{option}: '{file}' is not UTF-8 text; save it again as UTF-8")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{option}: '{file}' is not JSON ({error}); a file with one JSON value a line is to be named .jsonl"
        ) from None
    if isinstance(value, list):
        for number, entry in enumerate(value, 1):
            yield object_row(number, entry, "entry")
        return
    name = field_of(value) if isinstance(value, dict) else None
    if name is None:
        what = f"an object of {', '.join(list(value)[:20])}" if isinstance(value, dict) else type(value).__name__
        raise ValueError(
            f"{option}: '{file}' is {what}; it must be a list of texts, a list of objects, or an object of columns, "
            f"with one of {', '.join(COLUMNS)}"
        )
    named = field_of(value, ("group",))
    groups = None if named is None else _cells(value[named])
    for number, cell in enumerate(_cells(value[name]), 1):
        group = groups[number - 1] if groups is not None and number <= len(groups) else None
        yield prompt_row(number, cell, group, "entry")


def _cells(column: Any) -> list[Any]:
    """A column's values: a list, pandas' object of row numbers, or one value."""
    if isinstance(column, dict):
        return list(column.values())
    return column if isinstance(column, list) else [column]


def parquet_rows(file: Path, option: str) -> Iterator[PromptRow]:
    """Rows of a ``.parquet`` file, read batch by batch, of the wanted columns alone.

    Raises:
        ValueError: it is no Parquet, or has no such column.
    """
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            lowered = [name.lower() for name in names]
            wanted = [names[_column(lowered, file, option)]]
            wanted += [names[lowered.index("group")]] if "group" in lowered else []
            number = 0
            for batch in table.iter_batches(batch_size=4096, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield prompt_row(number, row[wanted[0]], row[wanted[1]] if len(wanted) > 1 else None)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{option}: '{file}' cannot be read as Parquet: {str(error).splitlines()[0]}") from error
