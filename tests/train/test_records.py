"""What a run notes of its samples: what cannot be used is counted once, whichever ranks it comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memsieve.filtering.data.rows import FailedRow
from memsieve.train.records import Records
from tests.filtering.data.ranks import ThreadExchange, on_ranks


def test_a_sample_that_fails_on_one_rank_and_then_on_another_is_one(tmp_path: Path) -> None:
    """Each pass deals the rows anew, so that a damaged one comes to every rank sooner or later."""

    def work(rank: int, exchange: ThreadExchange) -> list[Any]:
        records, counts = Records(tmp_path, rank, 2, None, keep_rows=False), []
        for step in (1, 2):
            failed = [FailedRow("a", "0.tar", 7, "broken")] if rank == step - 1 else []
            records.note_unused(step, failed, [])
            counts.append(records.newly_unusable)
            records.share_unusable(exchange)
            records.note_window(step, [], [], [])
        # A window that is not trained is read again, and is no part of what a checkpoint holds.
        records.note_unused(3, [FailedRow("b", "0.tar", 8, "broken")] if rank == 0 else [], [])
        records.share_unusable(exchange)
        return [counts, sorted(records.unusable), records.state_dict()["unusable"]]

    both = ["0.tar:7:a", "0.tar:8:b"]
    assert on_ranks(2, work) == [[[1, 0], both, both[:1]], [[0, 0], both, both[:1]]]
