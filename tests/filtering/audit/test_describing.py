"""Descriptors beside the scores: of the original picture, once for copies, with a reason where there is none."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

from memsieve.filtering.audit.describing import REASON, Describer, column_of
from memsieve.filtering.audit.query import AuditQuery
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.settings import SettingsError
from tests.filtering.identity.test_descriptors import Mean

Audit = Callable[..., Outcome]
Table = Callable[[Path], pa.Table]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "My-Mean.pt"
    torch.jit.script(Mean()).save(str(file))
    file.with_suffix(".json").write_text(json.dumps({"side": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}))
    return file


def png(draw: Callable[[Any], None] = lambda pen: None, ground: Any = "white", mode: str = "RGB") -> bytes:
    image = Image.new(mode, (40, 24), ground)
    draw(ImageDraw.Draw(image))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def pictures() -> dict[str, bytes]:
    def half(colour: str) -> bytes:
        return png(lambda pen: pen.rectangle((0, 0, 19, 23), fill=colour))

    return {
        "red": half("red"), "copy": half("red"), "blue": half("blue"), "blank": png(), "broken": b"no picture",
        "icon": png(lambda pen: pen.rectangle((20, 0, 39, 23), fill=(255,) * 4), (0, 0, 0, 0), "RGBA"),
    }  # fmt: skip


@pytest.fixture
def shard(pictures: dict[str, bytes], tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key, image in pictures.items():
            for suffix, data in (("png", image), ("txt", key.encode())):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return tmp_path / "a.tar"


@pytest.mark.parametrize("scored", [True, False])
def test_every_picture_has_a_row_or_a_reason(
    audit: Audit, read_rows: Table, shard: Path, model: Path, tmp_path: Path, scored: bool
) -> None:
    audit(shard, tmp_path / "run", model=scored, describe=[str(model)], batch_size=2)
    table = read_rows(tmp_path / "run")
    column = column_of(str(model))
    assert column == "descriptor_my_mean" and table.schema.field(column).type == pa.list_(pa.float16(), 12)
    rows = {row["key"]: row for row in table.to_pylist()}
    # Quarters in the order of channels: the left half red is red everywhere, and green and blue on the right alone.
    expected = [value / 8**0.5 for value in (1, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1)]
    assert rows["red"][column] == pytest.approx(expected, abs=0.03), "edges are blurred when it is resized"
    assert rows["copy"][column] == rows["red"][column] != rows["blue"][column]
    assert (rows["blank"][column], rows["blank"][REASON], rows["blank"]["status"]) == (None, "flat", "ok")
    assert rows["icon"][REASON] is None and rows["icon"][column] is not None, "white on a transparent ground"
    assert (rows["broken"][column], rows["broken"]["status"]) == (None, "bad_image")
    assert all((row["loss"] is not None) == (scored and row["status"] == "ok") for row in rows.values())
    with AuditQuery() as query:
        query.add("audit", tmp_path / "run")
        assert query.number(f"SELECT count({column}) FROM audit") == 4


def test_rows_do_not_depend_on_batches_or_on_where_it_was_stopped(
    audit: Audit, read_rows: Table, shard: Path, model: Path, tmp_path: Path
) -> None:
    audit(shard, tmp_path / "one", model=False, describe=[str(model)])
    audit(shard, tmp_path / "other", model=False, describe=[str(model)], batch_size=1, prefetch=0)
    one, other = (read_rows(tmp_path / name) for name in ("one", "other"))
    assert one.equals(other)
    again = audit(shard, tmp_path / "one", model=False, describe=[str(model)])
    assert (len(again.done), again.skipped) == (0, 1)


def test_other_descriptors_are_another_audit(audit: Audit, shard: Path, model: Path, tmp_path: Path) -> None:
    audit(shard, tmp_path / "run", model=False)
    plain = json.loads((tmp_path / "run" / "audit.json").read_text())["deciding"]
    assert "described" not in plain, "audits without descriptors keep their hash"
    with pytest.raises(SettingsError, match=r"was scored with described.descriptor_my_mean = nothing, now it is"):
        audit(shard, tmp_path / "run", model=False, describe=[str(model)])
    audit(shard, tmp_path / "run", model=False, describe=[str(model)], rescore=True)
    file = next((tmp_path / "run" / "scores").glob("*.parquet"))
    assert "descriptor_my_mean" in pq.read_schema(file).names


def test_a_copy_is_described_once_and_a_shard_knows_nothing_of_another(
    model: Path, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    describer = Describer([str(model)], DataConfig(path="none"))
    [descriptor] = describer.descriptors.values()
    counted: list[int] = []
    rows = descriptor.rows
    monkeypatch.setattr(descriptor, "rows", lambda prepared: counted.append(len(prepared)) or rows(prepared))

    def add(key: str) -> dict[str, Any]:
        return describer.add(pictures[key], Image.open(io.BytesIO(pictures[key])).convert("RGB"))

    first, copy = add("red"), add("copy")
    describer.fill()
    assert first is copy and counted == [1]
    describer.begin()
    assert add("red") is not first
    describer.fill()
    assert counted == [1, 1]


def test_two_files_of_one_name_are_refused(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "my_mean.pt"
    other.parent.mkdir()
    other.write_bytes(model.read_bytes())
    other.with_suffix(".json").write_bytes(model.with_suffix(".json").read_bytes())
    with pytest.raises(SettingsError, match=r"'.*my_mean.pt' would be column 'descriptor_my_mean', which there is"):
        Describer([str(model), str(other)], DataConfig(path="none"))
    assert Describer([], DataConfig(path="none")).fields == []
