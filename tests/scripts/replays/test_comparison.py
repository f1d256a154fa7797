"""scripts/replay sees a difference in every kind of file that it compares, and nothing in what tells the time."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from scripts.replays.comparison import differs, report

NAN = float("nan")


def write(folder: Path, weight: float, count: int, said: str = "kept") -> Path:
    folder.mkdir()
    save_file({"w": torch.tensor([weight, NAN])}, folder / "model.safetensors")
    torch.save({"groups": {"n": torch.tensor([count])}, "step": 3}, folder / "state.pt")
    pq.write_table(pa.table({"key": ["a"], "n": [count], "evidence": [NAN]}), folder / "ledger.parquet")
    (folder / "metrics.jsonl").write_text(json.dumps({"loss": weight, "step_seconds": count}) + "\n")
    (folder / "summary.json").write_text(json.dumps({"said": said, "step_seconds_median": count}))
    (folder / "run.log").write_text(said)
    return folder


def test_the_same_is_equal_whatever_the_clock_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = write(tmp_path / "one", 0.5, 7), write(tmp_path / "two", 0.5, 7)
    (two / "summary.json").write_text(json.dumps({"said": "kept", "step_seconds_median": 8}))
    assert report("job", one, two) == 0
    assert "job: 5 files, equal" in capsys.readouterr().out


def test_the_last_bit_of_a_weight_and_a_word_are_seen(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", 0.5, 7), write(tmp_path / "two", 0.5 + 2**-24, 8, "dropped")
    assert differs(one / "run.log", two / "run.log") is None
    for name in ("model.safetensors", "state.pt", "ledger.parquet", "metrics.jsonl", "summary.json"):
        assert differs(one / name, two / name), name
        assert differs(one / name, tmp_path / name) == "only one side wrote it"
    assert report("job", one, two) == 5


def test_nothing_is_not_equal(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert report("job", tmp_path / "one", tmp_path / "two") == 1
