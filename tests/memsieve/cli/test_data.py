"""``memsieve data openmoji``: every option reaches the dataset, and an earlier one is not written over unasked."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image
from typer.testing import CliRunner

from memsieve.cli import app


def test_options_make_the_dataset_that_they_name_and_an_earlier_one_stays_unless_that_is_said(tmp_path: Path) -> None:
    out = tmp_path / "set"
    words = ["data", "openmoji", str(out), "--size", "8", "--limit", "60", "--seed"]

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    done = CliRunner().invoke(app, [*words, "5", "--plant", "2x4", "--plant", "1x7"])
    assert done.exit_code == 0 and not done.stdout and "'train_rows'" in done.stderr, (done.output, done.exception)
    truth = pq.read_table(out / "truth.parquet").to_pylist()
    repeats = {row["group"]: row["repeats"] for row in truth}
    assert sorted(repeats.values(), reverse=True)[:4] == [7, 4, 4, 1] and 16 <= len(repeats) <= 60
    with tarfile.open(next(out.rglob("*.tar"))) as tar:
        file = next(tar.extractfile(member) for member in tar if member.name.endswith(".png"))
        assert file is not None and Image.open(io.BytesIO(file.read())).size == (8, 8)
    before = contents()
    again = CliRunner().invoke(app, [*words, "1"])
    assert isinstance(again.exception, ValueError) and contents() == before
    assert CliRunner().invoke(app, [*words, "1", "--overwrite"]).exit_code == 0
    assert {row["group"] for row in pq.read_table(out / "truth.parquet").to_pylist()} != set(repeats)
