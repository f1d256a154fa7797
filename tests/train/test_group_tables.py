"""The table of groups at the end of a run: every group once, with a sample of it, the same after a resume."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from memsieve.filtering.data.rows import Row, SkippedRow
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.signals import Predictions
from memsieve.filtering.types import Visit, group_name
from memsieve.train.records import Records
from tests.train.test_seen import LONG, content, saved


def row(number: int, group: str = "") -> Row:
    group = group or content(number)
    return Row(f"key {number}", "s.tar", number, group, f"caption {number}", torch.zeros(3, 4, 4), 0, 0, number)


def tables(folder: Path, stop: int | None) -> list[dict[str, Any]]:
    """groups.parquet of a run of 12 windows, resumed after ``stop`` where that is given."""
    sieve = MemorizationFilter(signals=["loss"], record=[])
    records = Records(folder, 0, 1, None, keep_rows=False)
    at: dict[str, Any] = {}
    step = 0
    while step < 12:
        if step == stop:
            stop, at = None, {"records": records.state_dict(), "filter": sieve.state_dict()}
            at = torch.load(io.BytesIO(saved(at)), weights_only=True)
        rows: list[Row | None] = [row(step * 4 + i) for i in range(4)]
        rows += [row(0), row(900, LONG), None]
        visits = [Visit(r.key, group=r.group) if r else Visit("") for r in rows]
        losses = torch.full((7, 4), 0.5)
        measured = sieve.measure(Predictions(torch.zeros(7, 4), losses), torch.full((7,), 5))
        decision = sieve.decide(visits, measured, [r is not None for r in rows])
        skipped = [SkippedRow("k", "s.tar", 1, content(n), 0, 0, step) for n in (1, 1, step, 7777)]
        records.note_skipped(step, skipped)
        records.note_window(step, rows, [], decision.verdicts)
        sieve.end_window()
        step += 1
        if at and step == 9:  # the process ends, with work done that no checkpoint holds
            sieve, records = MemorizationFilter(sieve.config), Records(folder, 0, 1, 5, keep_rows=False)
            sieve.load_state_dict(at["filter"])
            records.load_state_dict(at["records"])
            step, at = 5, {}
    records.write_tables(sieve, Exchange())
    found: list[dict[str, Any]] = pq.read_table(folder / "groups.parquet").to_pylist()
    return found


def test_the_table_of_groups_is_whole_and_the_same_after_a_resume(tmp_path: Path) -> None:
    found = tables(tmp_path / "whole", None)
    assert tables(tmp_path / "resumed", 5) == found
    by_group = {line["group"]: line for line in found}
    assert len(by_group) == len(found) == 49
    for number in range(48):
        line = by_group[content(number)]
        assert [line["key"], line["shard"], line["caption"]] == [f"key {number}", "s.tar", f"caption {number}"]
        assert line["skipped"] == (24 if number == 1 else 0) + (number < 12)
        assert line["exposures"] == (13 if number == 0 else 1) and line["first_step"] == number // 4
    assert by_group[group_name(LONG)]["caption"] == "caption 900" and by_group[group_name(LONG)]["exposures"] == 12
    assert list(found[0])[:4] == ["group", "key", "shard", "caption"] and list(found[0])[-1] == "skipped"
    steps = [(line["first_step"], line["group"]) for line in found]
    assert steps == sorted(steps)
