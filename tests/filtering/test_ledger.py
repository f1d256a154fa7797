"""The ledger's parts: what stands in them, which a resume removes, and in which order they are read."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.ledger import LEDGER_SCHEMA, Ledger, read_ledger
from memsieve.filtering.types import Action, Reason, Verdict, Visit
from tests.filtering.streams import batch


def verdict(key: str = "a", action: Action = Action.DROP, **place: int) -> Verdict:
    return Verdict(Visit(key, **place), 0.0, action, Reason.CONDEMNED)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_ledger_is_cut_exactly_on_resume(tmp_path: Any) -> None:
    filter = MemorizationFilter(signals=["magnitude"], rule="threshold", threshold=1.0)
    measured = filter.measure(batch([9.0]), torch.tensor([1]))
    ledger = Ledger(tmp_path / "ledger")
    for step in range(1, 7):
        ledger.add(step, filter.decide([Visit(f"k{step}")], measured).verdicts)
        if step % 2 == 0:
            ledger.flush()
    assert read_ledger(tmp_path / "ledger")["step"].to_pylist() == [1, 2, 3, 4, 5, 6]
    Ledger(tmp_path / "ledger", resume_step=4)
    rows = read_ledger(tmp_path / "ledger")
    assert rows["step"].to_pylist() == [1, 2, 3, 4] and rows["magnitude"].to_pylist() == [24.0] * 4
    assert rows["reason"].to_pylist() == ["signal above the threshold"] * 4


def test_a_row_holds_the_visit_the_verdict_and_the_numbers_it_rests_on(tmp_path: Path) -> None:
    visit = Visit("k", "s.tar", 7, "g", "a caption", stream=2, epoch=3, offset=11)
    signals = {"loss": 0.5, "magnitude": math.nan}
    ledger = Ledger(tmp_path, rank=4)
    ledger.add(9, [Verdict(visit, 0.25, Action.REWEIGHT, Reason.THRESHOLD, 500, signals, 1.5, 0.125, 2.5, 2.0, "why")])
    ledger.flush()
    (row,) = read_ledger(tmp_path).to_pylist()
    told = {name: value for name, value in row.items() if value is not None}
    assert told == {
        "step": 9, "epoch": 3, "rank": 4, "key": "k", "shard": "s.tar", "index": 7, "group": "g", "stream": 2,
        "offset": 11, "action": "reweight", "reason": "signal above the threshold", "timestep": 500, "weight": 0.25,
        "loss": 0.5, "score": 1.5, "p_value": 0.125, "evidence": 2.5, "threshold": 2.0, "error": "why",
    }  # fmt: skip
    assert row.keys() == set(LEDGER_SCHEMA.names), "what was not measured, or is not a number, is null"


def test_numbers_that_were_not_compared_are_null(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(1, [verdict()])
    ledger.flush()
    (row,) = read_ledger(tmp_path).to_pylist()
    assert [row[name] for name in ("score", "p_value", "evidence", "threshold", "loss", "error")] == [None] * 6
    assert (row["timestep"], row["index"], row["weight"]) == (-1, -1, 0.0)


def test_a_part_is_named_by_its_rank_and_steps_and_there_is_none_of_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "run" / "ledger", rank=3)
    assert ledger.flush() is None and names(ledger.folder) == []
    ledger.add(5, [])
    assert ledger.flush() is None
    for step in (5, 6, 6, 12):
        ledger.add(step, [verdict()])
    assert ledger.flush() == ledger.folder / "rank3-00000005-00000012.parquet"
    assert ledger.flush() is None and names(ledger.folder) == ["rank3-00000005-00000012.parquet"]


def test_rows_of_later_steps_wait_for_the_part_that_a_resume_removes_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for step in (1, 2, 3, 4):
        ledger.add(step, [verdict(f"k{step}")])
    ledger.flush(through=2)
    assert read_ledger(tmp_path)["key"].to_pylist() == ["k1", "k2"]
    assert ledger.flush(through=2) is None
    ledger.flush()
    assert read_ledger(tmp_path)["key"].to_pylist() == ["k1", "k2", "k3", "k4"]
    Ledger(tmp_path, resume_step=2)
    assert read_ledger(tmp_path)["key"].to_pylist() == ["k1", "k2"]


def test_a_rank_removes_its_own_parts_only_and_a_new_run_all_of_them(tmp_path: Path) -> None:
    for rank in (1, 10):
        ledger = Ledger(tmp_path, rank)
        for step in (1, 2):
            ledger.add(step, [verdict(f"rank {rank} step {step}")])
            ledger.flush()
    (tmp_path / "notes.txt").write_text("mine")
    Ledger(tmp_path, 1, resume_step=1)
    kept = ["rank1-00000001-00000001.parquet", "rank10-00000001-00000001.parquet", "rank10-00000002-00000002.parquet"]
    assert names(tmp_path) == ["notes.txt", *kept]
    Ledger(tmp_path, 1)
    assert names(tmp_path) == ["notes.txt", *kept[1:]]
    Ledger(tmp_path, 10, resume_step=0)
    assert names(tmp_path) == ["notes.txt"]


def test_a_part_that_was_not_finished_is_not_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(1, [verdict()])
    path = ledger.flush()
    assert path is not None
    path.with_suffix(".tmp").write_bytes(path.read_bytes()[:100])
    assert len(read_ledger(tmp_path)) == 1


def test_all_ranks_rows_are_read_in_the_order_of_their_positions(tmp_path: Path) -> None:
    """As one process would have written them, whichever rank wrote what, and when."""
    places = list(product((1, 2), (0, 1), (0, 1), (2, 10)))  # step, stream, epoch, offset
    ledgers = [Ledger(tmp_path, rank) for rank in range(3)]
    for number, (step, stream, epoch, offset) in reversed(list(enumerate(places))):
        ledgers[number % 3].add(step, [verdict(str(99 - number), stream=stream, epoch=epoch, offset=offset)])
    for ledger in ledgers:
        ledger.flush()
    assert read_ledger(tmp_path)["key"].to_pylist() == [str(99 - number) for number in range(len(places))]


def test_verdicts_are_counted_by_action(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(1, [verdict(), verdict(action=Action.FAILED)])
    ledger.flush()
    ledger.add(2, [verdict()])
    assert ledger.counts == {"drop": 2, "failed": 1}


def test_a_ledger_that_is_not_there_is_refused_and_one_without_parts_is_empty(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no ledger at '.*nowhere'; name a run folder's ledger/"):
        read_ledger(tmp_path / "nowhere")
    table = read_ledger(tmp_path)
    assert len(table) == 0 and table.schema.equals(LEDGER_SCHEMA)
    Ledger(tmp_path).add(1, [verdict()])
    assert len(read_ledger(tmp_path)) == 0, "nothing was flushed"


def test_a_part_has_the_columns_that_readers_of_the_files_know(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(1, [verdict()])
    path = ledger.flush()
    assert path is not None and pq.read_schema(path).equals(LEDGER_SCHEMA)
