"""An audit's rows in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from memsieve.filtering.audit.table import load_scores, matrix
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.written import row, write_audit


def test_draws_are_matrices_with_nan_where_nothing_was_measured(tmp_path: Path) -> None:
    scores = load_scores(write_audit(tmp_path, [row("a", [1.0, None]), row("b")]), columns=("key",))
    assert scores.table.column_names == ["key"] and len(scores) == 2
    assert np.array_equal(scores.draws["loss"], [[1.0, np.nan], [np.nan, np.nan]], equal_nan=True)
    assert np.array_equal(scores.timesteps, [[10, 60], [np.nan, np.nan]], equal_nan=True)


def test_a_column_of_several_chunks_is_one_matrix() -> None:
    chunks = [[[1.0, 2.0], None], [], [None, [3.0, 4.0]]]
    column = pa.chunked_array([pa.array(chunk, pa.list_(pa.float32())) for chunk in chunks])
    expected = [[1.0, 2.0], [np.nan] * 2, [np.nan] * 2, [3.0, 4.0]]
    assert np.array_equal(matrix(column, 2), expected, equal_nan=True)
    assert np.array_equal(matrix(column.chunk(0), 2), expected[:2], equal_nan=True)


def test_no_audit_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not an audit"):
        load_scores(tmp_path)
