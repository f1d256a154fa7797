"""What a task writes, whatever it is done with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from memsieve.filtering.audit.score import Outcome

Audit = Callable[..., Outcome]

Read = Callable[[Path], pa.Table]


def test_copies_in_a_shard_are_scored_once(
    audit: Audit, make_shards: Callable[..., Path], tmp_path: Path, read_rows: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They draw the same, so they score the same; the same image under another caption is another pair."""
    from memsieve.filtering.audit.scorer import AuditScorer

    seen: list[str] = []
    score = AuditScorer.score
    monkeypatch.setattr(
        AuditScorer, "score", lambda self, contents, *rest: (seen.extend(contents), score(self, contents, *rest))[1]
    )
    folder = make_shards(tmp_path / "data", 10, per_shard=50, copies=30)
    audit(folder, tmp_path / "out", draws=2)
    assert len(seen) == len(set(seen)) == 10
    rows = read_rows(tmp_path / "out").to_pylist()
    assert len(rows) == 40 and all(row["n_draws"] == 2 for row in rows)
    copies = [(row["loss"], row["magnitude_mean"], row["timesteps"]) for row in rows if row["caption"] == "pair 0"]
    assert len(copies) == 31 and all(copy == copies[0] for copy in copies)
    seen.clear()
    monkeypatch.setattr("memsieve.filtering.audit.work.PAIRS", 0)
    audit(folder, tmp_path / "few", draws=2)
    assert len(seen) == 40 and len(read_rows(tmp_path / "few")) == 40


def test_rows_do_not_depend_on_batch_size_or_on_other_shards(
    audit: Audit, folder: Path, tmp_path: Path, read_rows: Read
) -> None:
    audit(folder, tmp_path / "a")
    audit(folder / "00002.tar", tmp_path / "b", batch_size=3)
    a, b = read_rows(tmp_path / "a").slice(16), read_rows(tmp_path / "b")
    plain = ["shard", "index", "key", "sha256", "caption_hash", "phash", "timesteps"]
    assert a.select(plain).equals(b.select(plain)) and len(b) == 8
    for name in ("loss", "magnitude"):
        assert np.allclose(np.stack(a[name].to_numpy()), np.stack(b[name].to_numpy()), rtol=1e-5, atol=0)
