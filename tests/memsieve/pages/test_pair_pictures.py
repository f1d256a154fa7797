"""Pictures that the run did not keep are read from its own data once more; those outside of it are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from memsieve.filtering.data.rows import content_id
from memsieve.pages.pair_pictures import pictures_of_pairs
from memsieve.pages.run_data import GroupRow, load_run
from tests.inference.copies.pictures import picture
from tests.memsieve.cli.test_check import as_folder, as_shards


@pytest.mark.parametrize("kind", ["folder", "webdataset"])
def test_near_misses_have_their_pictures(kind: str, tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    (as_folder if kind == "folder" else as_shards)(data, [(number, f"thing {number}") for number in range(4)])
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"format": kind, "path": str(data), "resolution": 32}}))
    (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    rows = [GroupRow(content_id(picture(2)), shard=str(data / "0.tar")), GroupRow("nobody", shard="/etc/passwd")]
    found = pictures_of_pairs(load_run(run), rows)
    assert str(found[rows[0].group].own).startswith("data:image/") and found["nobody"].own is None
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"format": kind, "path": str(tmp_path / "gone")}}))
    there = load_run(run)
    assert pictures_of_pairs(there, rows)[rows[0].group].own is None
    assert any("pictures that the run did not keep" in note for note in there.notes)
