"""Tables of prompts: delimiters, JSON of any shape, columns whatever their capitals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from memsieve.inference.prompts.lists import read_prompts

PROMPTS = ["a cat", "Mothers influence on her young hippo", "ein Bär, 猫", "🙂 dog"]


def texts(file: Path) -> list[str]:
    rows = read_prompts(file)
    assert all(row.error is None for row in rows), [row.error for row in rows]
    return [row.prompt for row in rows]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_any_usual_delimiter(delimiter: str, tmp_path: Path) -> None:
    """As a published list of memorised prompts has it: ``;`` and a column Caption."""
    values = [["1", 'He said "no", twice; or | more', "http://a/b?c,d"], ["2", "a cat", "x"]]
    file = tmp_path / "p.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([["Index", "Caption", "URL"], *values])
    assert texts(file) == [row[1] for row in values]
    file.write_text(f"sep={delimiter}\n{file.read_text()}")  # Excel's first line
    assert [(row.line, row.prompt) for row in read_prompts(file)] == [(3, values[0][1]), (4, "a cat")]


def test_tsv_and_rows_that_do_not_fit_the_header(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("url\tTEXT\tgroup\nu\ta cat, red; old\tg\nu\n")
    rows = read_prompts(tmp_path / "p.tsv")
    assert (rows[0].prompt, rows[0].group) == ("a cat, red; old", "g")
    assert rows[1].error == "line 3 has 1 of 3 columns"
    (tmp_path / "p.csv").write_text('Prompt\na cat, red\n"a dog, red"\na hat,,\n')
    rows = read_prompts(tmp_path / "p.csv")
    assert rows[0].error == "line 2 has 2 columns, the header 1: put a value that holds ',' in quotes", "not cut off"
    assert [row.prompt for row in rows[1:]] == ["a dog, red", "a hat"]
    (tmp_path / "q.csv").write_text('text;n\na;1\n"' + "x;1\n" * 50_000)
    assert "reading stops" in (read_prompts(tmp_path / "q.csv")[-1].error or "")


@pytest.mark.parametrize(
    "value",
    [
        PROMPTS,
        [{"Caption": text, "url": "x"} for text in PROMPTS],
        {"id": [1, 2, 3, 4], "TEXT": PROMPTS},
        {"Prompt": {str(i): text for i, text in enumerate(PROMPTS)}},  # pandas' to_json
    ],
)
def test_json_lists_and_columns(value: Any, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(value))
    assert texts(tmp_path / "p.json") == PROMPTS


def test_json_that_is_something_else(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"captions": PROMPTS}))
    with pytest.raises(ValueError, match=r"is an object of captions; it must be a list of texts.*prompt, caption"):
        read_prompts(file)
    file.write_text("7")
    with pytest.raises(ValueError, match="is int; it must be a list"):
        read_prompts(file)
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not JSON"):
        read_prompts(file)
    file.write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(ValueError, match="one JSON value a line is to be named .jsonl"):
        read_prompts(file)
    assert texts(file.rename(tmp_path / "p.jsonl")) == ["a", "b"]
    file.write_text('["a", 3, {"x": 1}, {"caption": "b", "Group": "g"}]')
    rows = read_prompts(file)
    assert [row.error for row in rows[1:3]] == [
        "entry 2 holds a value of type int instead of a prompt",
        "entry 3 has none of the fields prompt, caption, text",
    ]
    assert (rows[3].prompt, rows[3].group) == ("b", "g")


def test_columns_are_found_whatever_their_capitals(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"Caption": "a"}\n{"TEXT": "b"}\n{"text": "t", "Prompt": "c"}\n')
    assert texts(tmp_path / "p.jsonl") == ["a", "b", "c"]
