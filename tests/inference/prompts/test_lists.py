"""Prompt files of every kind, each bad line named and counted, and groups of near-identical prompts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from memsieve.inference.prompts.lists import prompt_groups, read_prompts


def test_text(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffa cat\r\n\nein Bär\n".encode() + b"\xff\xfe broken\n")
    rows = read_prompts(file)
    assert [(row.line, row.prompt) for row in rows if row.error is None] == [(1, "a cat"), (3, "ein Bär")]
    assert [row.error for row in rows if row.error] == ["line 2: the prompt is empty", "line 4 is not UTF-8 text"]


def test_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('"plain"\n{"caption": "c", "group": "g"}\n{broken\n{"x": 1}\n{"prompt": 7}\n["a"]\n"\\ud800"\n')
    rows = read_prompts(file)
    assert [(row.prompt, row.group) for row in rows[:2]] == [("plain", None), ("c", "g")]
    errors = [row.error or "" for row in rows[2:]]
    assert "line 3 is not JSON" in errors[0] and "none of the fields prompt, caption, text" in errors[1]
    assert "a value of type int instead" in errors[2] and "type list instead" in errors[3] and "surrogate" in errors[4]


def test_csv_and_parquet(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text('id,Prompt,group\n1,"a, b",g\n2\n3,,\n')
    rows = read_prompts(file)
    assert (rows[0].prompt, rows[0].group) == ("a, b", "g")
    assert [row.error for row in rows[1:]] == ["line 3 has 1 of 3 columns", "line 4: the prompt is empty"]
    pq.write_table(pa.table({"text": ["x", None, "y"]}), tmp_path / "p.parquet")
    assert [row.error for row in read_prompts(tmp_path / "p.parquet")] == [None, "line 2 holds no prompt", None]


def test_the_captions_of_shards(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as tar:
        for i, text in enumerate([b"a cat", b"a cat", b"\xff", b"a dog"]):
            tar.write({"__key__": f"k{i}", "png": b"x", "txt": text})
    rows = read_prompts(tmp_path)
    assert [(row.line, row.prompt) for row in rows if row.error is None] == [(1, "a cat"), (4, "a dog")]
    assert [row.error for row in rows if row.error] == [
        "sample 3 (k2): the caption is not UTF-8 text: invalid start byte at byte 0"
    ]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        read_prompts(tmp_path / "no.txt")
    with pytest.raises(ValueError, match="must be a .txt, .jsonl, .csv, .parquet file, or a folder"):
        read_prompts(tmp_path / "no.docx")
    (tmp_path / "e.txt").write_text("\n\n")
    with pytest.raises(
        ValueError, match=r"holds no usable prompt \(2 lines read; the first: line 1: the prompt is empty"
    ):
        read_prompts(tmp_path / "e.txt")
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="has the columns a, b"):
        read_prompts(tmp_path / "c.csv")
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        read_prompts(tmp_path / "x.parquet")


def test_series_are_one_group() -> None:
    prompts = [
        "Shaw Floors Couture Collection 00105_19698", "Shaw Floors Value Collections Sandy Hollow 00201",
        "a photo of the Eiffel tower at night", "the Eiffel tower at night, a photo", "a red ball", "a blue door",
        "the", "",
    ]  # fmt: skip
    groups = prompt_groups(prompts)
    assert groups[0] == groups[1] and groups[2] == groups[3]
    assert len(set(groups)) == 6
