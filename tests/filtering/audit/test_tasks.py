"""What an audit is cut into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.status import audit_status

Audit = Callable[..., Outcome]

Read = Callable[[Path], pa.Table]


@pytest.mark.parametrize("kind", ["hf", "folder"])
def test_datasets_and_folders_are_audited_in_blocks(
    audit: Audit,
    tmp_path: Path,
    read_rows: Read,
    png: Callable[[int], bytes],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("memsieve.filtering.audit.tasks.BLOCK", 4)
    path = tmp_path / "data"
    if kind == "hf":
        import datasets

        columns = {
            "image": [{"bytes": png(i), "path": None} for i in range(10)],
            "text": [f"pair {i}" for i in range(10)],
        }
        features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(path))
    else:
        path.mkdir()
        for i in range(10):
            (path / f"{i:03}.png").write_bytes(png(i))
            (path / f"{i:03}.txt").write_text(f"pair {i}")
    options = {"data": {"format": kind, "image_key": "image;png"}, "draws": 1}
    assert len(audit(path, tmp_path / "out", **options).done) == 3
    table = read_rows(tmp_path / "out").sort_by("part")
    assert table["part"].to_pylist() == list(range(10))
    assert table["caption"].to_pylist() == [f"pair {i}" for i in range(10)]
    if kind == "folder":
        (path / "005.txt").write_text("another caption")
        assert [s.task.start for s in audit_status(tmp_path / "out").states if s.state == "stale"] == [4]
