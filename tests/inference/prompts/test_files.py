"""Prompt files as people have them: encodings, delimiters, JSON; what cannot be read is said, never scored."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

import memsieve.inference.prompts.rows as prompt_rows
from memsieve.inference.prompts.lists import read_names, read_prompts

PROMPTS = ["a cat", "Mothers influence on her young hippo", "ein Bär, 猫", "🙂 dog"]


def texts(file: Path) -> list[str]:
    rows = read_prompts(file)
    assert all(row.error is None for row in rows), [row.error for row in rows]
    return [row.prompt for row in rows]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_encoding_with_a_mark_is_read(encoding: str, newline: str, tmp_path: Path) -> None:
    """Notepad's "Unicode" is UTF-16: no line is lost, and none is scored as garbage."""
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    for ending, content in {
        "txt": newline.join(PROMPTS) + newline,
        "csv": newline.join(["Caption;n", *(f"{text};1" for text in PROMPTS)]),
        "jsonl": newline.join(json.dumps({"text": text}, ensure_ascii=False) for text in PROMPTS),
        "json": json.dumps(PROMPTS, ensure_ascii=False),
    }.items():
        file = tmp_path / f"p.{ending}"
        file.write_bytes((mark + content).encode(encoding))
        assert texts(file) == PROMPTS, ending


def test_utf_16_without_a_mark_and_other_binary_files_are_refused(tmp_path: Path) -> None:
    """And saved as the message says, the same text is read."""
    file = tmp_path / "p.txt"
    for encoding in ("utf-16-le", "utf-16-be"):
        file.write_bytes("\n".join(PROMPTS).encode(encoding))
        with pytest.raises(ValueError, match=r"--prompts: '.*' holds NUL bytes, the first at byte [01].*byte-order"):
            read_prompts(file)
    file.write_bytes("\n".join(PROMPTS).encode("utf-16"))
    assert texts(file) == PROMPTS
    file.write_bytes("\n".join(PROMPTS).encode("utf-16")[:-1])
    with pytest.raises(ValueError, match=r"begins as UTF-16 and is not: truncated data at byte \d+; it may be cut"):
        read_prompts(file)
    file.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(ValueError, match="NUL bytes, the first at byte 8"):
        read_prompts(file)


def test_a_nul_in_a_json_string_or_a_table_is_that_entrys_error(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('["a cat", "a\\u0000b"]')
    pq.write_table(pa.table({"Caption": ["a cat", "a\0b"]}), tmp_path / "p.parquet")
    for name, unit in (("p.json", "entry"), ("p.parquet", "line")):
        good, bad = read_prompts(tmp_path / name)
        assert good.error is None and bad.error == f"{unit} 2 holds a NUL character, which is not text"


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


def test_files_and_lists_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.txt").write_text("a\nb\nc\n")
    pq.write_table(pa.table({"text": ["a", "b", "c"]}), tmp_path / "p.parquet")
    monkeypatch.setattr("memsieve.inference.prompts.lists.MAX_ROWS", 2)
    for name in ("p.txt", "p.parquet"):
        with pytest.raises(ValueError, match="holds more than 2 prompts; split it"):
            read_prompts(tmp_path / name)
    monkeypatch.setattr(prompt_rows, "MAX_FILE_BYTES", 5)
    with pytest.raises(ValueError, match="has 6 bytes, over 5; split it, or use Parquet"):
        read_prompts(tmp_path / "p.txt")


def write_shard(file: Path, samples: list[dict[str, Any]]) -> None:
    with webdataset.TarWriter(str(file)) as tar:
        for i, sample in enumerate(samples):
            tar.write({"__key__": f"k{i}", "png": b"x", **sample})


def test_captions_in_the_json_of_shards(tmp_path: Path) -> None:
    """As img2dataset and others write them; a text member comes first, and a broken json beside it does no harm."""
    write_shard(
        tmp_path / "0.tar",
        [
            {"json": b'{"caption": "a cat", "url": "x"}'},
            {"json": b'{"text": "a dog"}', "txt": b"a hat"},
            {"json": b"{broken", "txt": b"a fox"},
            {"json": b'{"prompt": "an owl"}'},
            {"json": b'{"url": "x"}'},
            {"json": b"{broken"},
        ],
    )
    rows = read_prompts(tmp_path)
    assert [row.prompt for row in rows if row.error is None] == ["a cat", "a hat", "a fox", "an owl"]
    errors = [row.error or "" for row in rows if row.error]
    assert "sample 5 (k4): the sample has no caption (data.caption_key" in errors[0] and "json.caption" in errors[0]
    assert "sample 6 (k5): the sample's json cannot be read" in errors[1]


def test_a_folder_without_one_readable_caption_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", [{"json": b'{"url": "x"}'}, {"json": b'{"alt": "a cat"}'}, {}])
    with pytest.raises(ValueError, match=r"holds no usable prompt \(3 lines read; the first: sample 1 \(k0\): the sam"):
        read_prompts(tmp_path)


def test_lists_of_names(tmp_path: Path) -> None:
    file = tmp_path / "groups.txt"
    file.write_bytes("one\r\n\r\ntwö\r\n".encode("utf-16"))
    assert read_names(file, "--groups") == ["one", "twö"]
    file.write_bytes(b"one\n\xff\n")
    with pytest.raises(ValueError, match=r"--groups: line 2 of '.*' is not UTF-8 text"):
        read_names(file, "--groups")
    file.write_bytes(b"\n")
    with pytest.raises(ValueError, match=r"--groups: '.*' is empty; name one a line"):
        read_names(file, "--groups")
