"""In words: when a pair was condemned, by what evidence, against which bar."""

from __future__ import annotations

import pyarrow as pa

from memsieve.pages.run_data import EVIDENCE, GroupRow
from memsieve.pages.said import why_condemned

NONE = pa.schema(list(EVIDENCE.items())).empty_table()


def test_the_ledger_says_it_where_the_first_visit_was_dropped() -> None:
    row = GroupRow("a", condemned_step=30, first_drop=31, drop_evidence=4.25, threshold=3.0, drop_p=0.01)
    told = "At step 30 its evidence was 4.25, the bar 3. Of clean pairs 1\u00a0% get so far (p = 0.01)."
    assert why_condemned(row, NONE) == told


def test_the_curve_says_it_where_the_loader_skipped_the_pair_and_the_evidence_of_later_steps_does_not_count() -> None:
    rows = [(20, "a", 2.0, 3.0), (30, "a", 3.5, 3.1), (400, "a", 99.0, 9.0), (30, "b", 7.0, 3.1)]
    names = list(EVIDENCE)
    curve = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], NONE.schema)
    row = GroupRow("a", condemned_step=30, evidence_max=99.0)
    assert why_condemned(row, curve) == "At step 30 its evidence was 3.5, the bar 3.1."
    row.condemned_step = 60
    assert why_condemned(row, curve) == "Its evidence was 3.5 at step 30, the bar 3.1."
    assert why_condemned(row, NONE) == "", "the evidence at the end is another number"
