"""The benchmark of near-duplicates, small: photographs of one's own, embeddings, tables, and the page of them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.identity import run
from benchmarks.identity.at_scale import WIDTH, embeddings, neighbours
from benchmarks.identity.finders import judged, measured
from benchmarks.identity.page import write_page
from benchmarks.identity.photographs import SIDE, Photograph, prepared
from memsieve.filtering.identity.edits import EDITS
from memsieve.filtering.identity.leaders import alike
from tests.filtering.identity.test_descriptors import scene


@pytest.fixture
def photographs(tmp_path: Path) -> list[Photograph]:
    """Scenes in a folder of one's own, one of them large, one cut out."""
    folder = tmp_path / "own"
    folder.mkdir()
    for i in range(22):
        scene(i, 900 if i == 0 else 96).save(folder / f"{i:02d}.png")
    cut = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
    ImageDraw.Draw(cut).ellipse((10, 10, 70, 50), fill=(200, 30, 60, 255))
    cut.save(folder / "cut.png")
    (folder / "notes.txt").write_text("no picture")
    return prepared(tmp_path / "work", folder)


def test_photographs_are_small_upright_and_on_white(photographs: list[Photograph], tmp_path: Path) -> None:
    assert len(photographs) == 23 and {one.package for one in photographs} == {"own"}
    sizes = {one.name: Image.open(one.file) for one in photographs}
    assert sizes["own--00"].size == (SIDE, SIDE) and sizes["own--cut"].getpixel((0, 0)) == (255, 255, 255)
    assert prepared(tmp_path / "work", tmp_path / "own") == photographs


def test_a_finder_is_judged_by_edit_and_by_different_photographs(
    photographs: list[Photograph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = measured("phash", photographs, tmp_path / "phash.npz", 1)
    found = judged("phash", rows, 0.01)
    assert set(found) == {"-4", "-8", "clean"} and set(found["-4"]["recall"]) == set(EDITS)
    assert found["-8"]["mean_recall"] >= found["-4"]["mean_recall"] > 0.2
    assert found["-4"]["recall"]["JPEG 30"] > 0.8 > found["-4"]["recall"]["crop 25 %"]
    assert found["-4"]["joined_falsely"] == 0.0 == found["clean"]["joined_falsely"]
    assert judged("phash", rows, 0.01)["clean"]["threshold"] < -8, "the nearest two lie further apart than that"
    monkeypatch.setattr("benchmarks.identity.finders._rows", None)
    again = measured("phash", photographs, tmp_path / "phash.npz", 1)
    assert np.array_equal(again.edits, rows.edits), "what is there is not described again"


@pytest.mark.skipif(find_spec("pdqhash") is None, reason="pdqhash is not installed")
def test_the_check_stands_beside_the_truth(
    photographs: list[Photograph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "FINDERS", ("phash", "pdq", "sscd"))
    monkeypatch.setattr("benchmarks.identity.finders.FIXED", {"phash": (-4.0,), "pdq": (-31.0,), "sscd": (0.75,)})
    monkeypatch.setattr("memsieve.filtering.identity.descriptors.find_spec", lambda name: None)
    values = run.on_photographs(photographs, tmp_path / "work")
    pdq = values["finders"]["pdq"]
    assert values["photographs"] == 23 and "pip install" in values["missing"]["sscd"]
    assert pdq["auto"]["check"]["threshold"] == pytest.approx(pdq["auto"]["threshold"], abs=1.01)
    assert abs(pdq["auto"]["check"]["mean_recall"] - pdq["auto"]["mean_recall"]) < 0.15
    write_page(tmp_path / "page.md", {"photographs": values})
    text = " ".join((tmp_path / "page.md").read_text().split())
    assert (
        "23 of own" in text
        and "23 photographs" in text
        and "| falsely | 0.0% |" in text
        and "`sscd` was not there" in text
    )


@pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")
def test_embeddings_are_joined_as_brute_force_joins_them(tmp_path: Path) -> None:
    (block,) = embeddings(500)
    assert block.shape == (500, WIDTH) and block.dtype == np.float16
    assert np.allclose(np.linalg.norm(block.astype(np.float32), axis=1), 1.0, atol=2e-3)
    near = alike(block, block) - np.eye(500)
    assert float(near[4::5].max(axis=1).min()) > 0.75 and float(near.max()) < 0.99
    found = neighbours(2500)
    assert found["joined"] == 500 and found["leaders"] == 2000 and found["recall"] == 1.0
    assert found["joined_by_brute_force"] > 300
    write_page(tmp_path / "page.md", {"neighbours": found})
    assert "2,000 leaders, 500 joined" in " ".join((tmp_path / "page.md").read_text().split())


def test_the_page_is_made_of_the_numbers_that_are_there(tmp_path: Path) -> None:
    out, page = tmp_path / "identity.json", tmp_path / "page.md"
    one = {"seconds": 10.0, "bytes": 3_000_000_000}
    out.write_text(json.dumps({"tables": {"rows": 10_000_000, "select": one, "groups": one | {"seconds": None}}}))
    run.main(part="page", work=tmp_path, out=out, page=page)
    assert "## 10,000,000 rows" in page.read_text() and "| select | 10 | 3.0 | 300 |" in page.read_text()
    assert "| groups | – | 3.0 | 300 |" in page.read_text()
