"""Prompt files of every kind, each bad line named and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from memsieve.inference.prompts.lists import ordinary_prompts, read_names, read_prompts


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


def test_the_captions_of_one_tar_of_pictures_in_a_folder_and_of_a_dataset_on_disk(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with webdataset.TarWriter(str(tmp_path / "one.tar")) as tar:
        for i, text in enumerate(("a cat", "a cat", "a dog")):
            tar.write({"__key__": f"k{i}", "png": b"x", "txt": text})
            (tmp_path / "pictures" / f"{i}.png").write_bytes(b"x")
            (tmp_path / "pictures" / f"{i}.txt").write_text(text)
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")],
            "text": ["a cat", "a cat", "a dog"]}  # fmt: skip
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "hf"))
    for name in ("one.tar", "pictures", "hf"):
        assert [(row.line, row.prompt) for row in read_prompts(tmp_path / name)] == [(1, "a cat"), (3, "a dog")], name


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


def test_the_shipped_list_is_large_enough_and_distinct() -> None:
    prompts = ordinary_prompts()
    assert len(prompts) == len(set(prompts)) >= 199 and all(len(p.split()) >= 3 for p in prompts)


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
