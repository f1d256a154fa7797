"""Our own JSON Lines, read back after a crash."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from memsieve.filtering.files import read_json_lines


def test_a_last_line_that_was_cut_off_is_removed_and_told(tmp_path: Path) -> None:
    path, told = tmp_path / "rows.jsonl", []  # type: ignore[var-annotated]
    assert read_json_lines(path) == []
    for cut in (b'{"step": 3, "tra', b"\0\0\0", b'{"step": 3', '{"é'.encode()[:-1]):
        path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + cut)
        assert [row["step"] for row in read_json_lines(path, note=told.append)] == [1, 2]
        assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    assert len(told) == 4 and f"'{path}' ended in a line that was cut off" in told[0]
    read_json_lines(path, note=told.append)
    assert len(told) == 4


@pytest.mark.parametrize("damage", [b"{broken", b"[1]", b"\xff\xfe", b"", b"[" * 100_000])
def test_a_damaged_line_elsewhere_is_named_with_a_way_out_that_works(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "it's rows.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl', line 2, is no JSON object") as error:
        read_json_lines(path)
    command = re.search(r"\((sed .*)\), or", str(error.value))
    assert command is not None
    subprocess.run(command[1], shell=True, check=True)
    assert [row["step"] for row in read_json_lines(path)] == [1, 3]
    assert json.loads(path.read_text().splitlines()[1]) == {"step": 3}
