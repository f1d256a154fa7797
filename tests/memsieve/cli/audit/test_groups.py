"""``memsieve audit groups``: images that look alike become one pair, in the table that data.groups takes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image, ImageOps

from tests.filtering.audit.written import row, write_audit
from tests.memsieve.auditing import run, said


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit without a model of an image, the same mirrored, the same a little brighter, and another one."""
    folder = tmp_path_factory.mktemp("alike")
    pixels = np.random.default_rng(0).integers(0, 250, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
    other = Image.fromarray(255 - pixels.transpose(1, 0, 2)).resize((32, 32), Image.Resampling.BICUBIC)
    brighter = image.point(lambda value: value + 2)
    for number, one in enumerate((image, ImageOps.mirror(image), brighter, other)):
        with webdataset.TarWriter(str(folder / f"{number}.tar")) as tar:
            tar.write({"__key__": str(number), "png": png(one), "txt": b"x"})
    assert run("score", "--shards", folder, "--data-only", "--out", folder / "audit").exit_code == 0
    return folder / "audit"


def test_groups_of_images_that_look_alike(audited: Path, tmp_path: Path) -> None:
    result = run("groups", audited, "--out", tmp_path / "groups.parquet", "--bits", 0, "--no-mirrored")
    assert result.exit_code == 0, result.output
    assert "0 of 15 images have near-duplicates" in result.output, "six copies of one image's bytes are one image"
    table = pq.read_table(tmp_path / "groups.parquet")
    assert table.column_names == ["content", "group"] and len(table) == 0


def test_mirrored_images_are_the_same_unless_that_is_switched_off(alike: Path, tmp_path: Path) -> None:
    table = tmp_path / "groups.parquet"
    for option, joined in ((), 3), (("--no-mirrored",), 2):
        result = run("groups", alike, "--out", table, *option)
        assert result.exit_code == 0, result.output
        assert f"{joined} of 4 images have near-duplicates: 1 groups, the largest of {joined}" in said(result)
        assert f"set data.groups: {table}" in said(result)
        assert len(pq.read_table(table)) == joined and len(set(pq.read_table(table)["group"].to_pylist())) == 1


def test_hashes_of_one_group_may_differ_in_as_many_bits_as_bits_says(tmp_path: Path) -> None:
    rows = [row("a", phash="0f" * 8), row("b", phash="0f" * 7 + "08"), row("c", phash="5a" * 8)]
    audit, table = write_audit(tmp_path / "audit", rows), tmp_path / "groups.parquet"
    for bits, joined in ((2, 0), (3, 2)):
        result = run("groups", audit, "--out", table, "--bits", bits, "--no-mirrored")
        assert f"{joined} of 3 images have near-duplicates" in said(result), (bits, result.exception)
    refused = run("groups", audit, "--out", table, "--bits", 17)
    assert isinstance(refused.exception, ValueError) and "--bits = 17 must lie between 0 and 16" in str(
        refused.exception
    )


def test_an_audit_that_is_not_whole_is_refused_unless_partial_is_said(alike: Path, tmp_path: Path) -> None:
    (marker,) = (alike / "markers").glob("3.tar*")
    text = marker.read_text()
    marker.unlink()
    try:
        refused = run("groups", alike, "--out", tmp_path / "groups.parquet")
        assert isinstance(refused.exception, ValueError) and "--partial" in str(refused.exception)
        assert not (tmp_path / "groups.parquet").exists()
        result = run("groups", alike, "--out", tmp_path / "groups.parquet", "--partial")
        assert result.exit_code == 0 and "3 of 3 images" in said(result)
    finally:
        marker.write_text(text)


def test_a_table_of_another_kind_is_refused(alike: Path, tmp_path: Path) -> None:
    result = run("groups", alike, "--out", tmp_path / "groups.csv")
    assert isinstance(result.exception, ValueError) and "must end in .parquet" in str(result.exception)
