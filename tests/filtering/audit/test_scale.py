"""Memory does not grow with the rows of an audit as it would if each were an object."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.filtering.audit.large import write_large_audit

FEW, MANY = 200_000, 1_200_000
MOST_BYTES = 300
"""A row: 790 and 2,288 were taken where rows were Python objects."""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["select", "groups", "report"])
def test_a_million_rows_more_take_few_bytes_each(what: str, tmp_path: Path) -> None:
    taken = {}
    for rows in (FEW, MANY):
        root = write_large_audit(tmp_path / str(rows), rows)
        command = [sys.executable, "-m", "tests.filtering.audit.large", str(root), what]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=280)
        taken[rows] = int(done.stdout)
    assert (taken[MANY] - taken[FEW]) / (MANY - FEW) < MOST_BYTES
    if what == "select":
        assert pq.read_metadata(tmp_path / str(MANY) / "keep.parquet").num_rows == MANY
