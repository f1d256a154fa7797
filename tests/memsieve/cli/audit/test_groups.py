"""``memsieve audit groups``: images that look alike become one pair, in the table that data.groups takes."""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from PIL import Image, ImageOps

from memsieve.filtering.audit.group_decisions import FORMAT
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.identity.edits import edited
from tests.filtering.audit.test_group_check import Coarse
from tests.filtering.audit.written import row, write_audit
from tests.filtering.identity.test_descriptors import scene
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
    assert run("score", "--data", folder, "--data-only", "--out", folder / "audit").exit_code == 0
    return folder / "audit"


def test_groups_of_images_that_look_alike(audited: Path, tmp_path: Path) -> None:
    result = run("groups", audited, "--out", tmp_path / "groups.parquet", "--bits", 0, "--no-mirrored")
    assert result.exit_code == 0, result.output
    assert "0 of 15 images have near-duplicates" in result.output, "six copies of one image's bytes are one image"
    table = pq.read_table(tmp_path / "groups.parquet")
    assert table.column_names[:2] == ["content", "group"] and len(table) == 0


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


class Blind(torch.nn.Module):
    """Says the same of every picture, to the eye of a threshold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1) * 1e-3 + 1.0


@pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")
def test_a_threshold_is_measured_on_the_data_and_the_best_descriptor_is_taken(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for i in range(30):
        scene(i, 96).save(tmp_path / "data" / f"{i:02d}.png")
        (tmp_path / "data" / f"{i:02d}.txt").write_text("a scene")
    edited("mirror", scene(0, 96), [0]).save(tmp_path / "data" / "again.png")
    (tmp_path / "data" / "again.txt").write_text("a scene")
    for name, module in (("coarse", Coarse()), ("blind", Blind())):
        torch.jit.script(module).save(str(tmp_path / f"{name}.pt"))
        (tmp_path / f"{name}.json").write_text('{"side": 48, "mean": [0, 0, 0], "std": [1, 1, 1]}')
    words = ["score", "--data", tmp_path / "data", "--format", "folder", "--data-only"]
    both = ["--describe", tmp_path / "coarse.pt", "--describe", tmp_path / "blind.pt"]
    assert run(*words, *both, "--out", tmp_path / "run").exit_code == 0
    result = run("groups", tmp_path / "run", "--out", tmp_path / "groups.parquet", "--check", 30, "--false-joins", 0.3)
    assert result.exit_code == 0, result.output
    assert "edits found again at 30.0% false joins" in result.output and "mean" in result.output
    table = pq.read_table(tmp_path / "groups.parquet")
    assert set(table["descriptor"].to_pylist()) == {"coarse"}
    group = dict(zip(table["content"].to_pylist(), table["group"].to_pylist(), strict=True))
    one, again = (content_id((tmp_path / "data" / name).read_bytes()) for name in ("00.png", "again.png"))
    assert group[one] == group[again]
    named = ["groups", tmp_path / "run", "--out", tmp_path / "other.parquet", "--by", "blind"]
    result = run(*named)
    assert result.exit_code == 4 and not (tmp_path / "other.parquet").exists()
    assert "no descriptor tells pictures of this kind apart" in " ".join(result.output.split())
    assert run(*named, "--threshold", 0.5).exit_code == 0
    for more, why in (
        (["--threshold", "many"], "must be a number, or auto"),
        (["--by", "dino"], "--by dino: the audit has"),
    ):
        assert why in str(run(*named, *more).exception)
    result = run("groups", tmp_path / "run", "--out", tmp_path / "other.parquet", "--threshold", 0.5)
    assert "--threshold 0.5 needs --by" in str(result.exception)
    assert run("groups", tmp_path / "run", "--out", tmp_path / "p.parquet", "--by", "phash").exit_code == 0


def test_a_table_is_gone_on_with_by_what_it_was_made(alike: Path, tmp_path: Path) -> None:
    table = tmp_path / "groups.parquet"
    assert run("groups", alike, "--out", table, "--no-mirrored").exit_code == 0
    on = ["groups", alike, "--onto", table, "--out", tmp_path / "more.parquet"]
    result = run(*on)
    assert result.exit_code == 0, result.output
    assert "0 of 0 new images join others; 2 images are in 1 groups, the largest of 2" in said(result)
    assert pq.read_table(table).equals(pq.read_table(tmp_path / "more.parquet"))
    assert run(*on, "--by", "phash", "--bits", 4, "--no-mirrored").exit_code == 0
    for more, why in (
        (["--by", "sscd"], "--by sscd: the groups of --onto are by phash"),
        (["--threshold", 3], "--threshold 3: that of --onto is 4"),
        (["--bits", 2], "--bits and --mirrored: the groups of --onto are by phash at 4, not mirrored"),
        (["--mirrored"], "leave the options out"),
    ):
        assert why in str(run(*on, *more).exception), more
    refused = run("groups", alike, "--onto", tmp_path / "no.parquet", "--out", table)
    assert "--onto: there is no file" in str(refused.exception)


def test_groups_by_caption_and_what_a_person_decided(alike: Path, tmp_path: Path) -> None:
    table, file = tmp_path / "groups.parquet", tmp_path / "decisions.json"
    result = run("groups", alike, "--out", table, "--by", "caption")
    assert "4 of 4 images have near-duplicates: 1 groups, the largest of 4" in said(result), result.output
    first = pq.read_table(table)["content"][0].as_py()
    file.write_text(json.dumps({"format": FORMAT, "split": [first]}))
    result = run("groups", alike, "--out", table, "--by", "caption", "--decisions", file)
    assert "3 of 4 images have near-duplicates: 1 groups" in said(result), result.output
    file.write_text("{}")
    refused = run("groups", alike, "--out", table, "--decisions", file)
    assert "holds no decisions about groups" in str(refused.exception)
