"""The text of prompt files as people have them: encodings, line ends, limits; nothing binary is scored."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import memsieve.inference.prompts.rows as prompt_rows
from memsieve.inference.prompts.lists import read_prompts

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
