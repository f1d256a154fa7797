"""The index over shards: nearest pairs, duplicates, damage, and faiss beside the exact search."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch

from memsieve.inference.copies.index import TrainingIndex
from memsieve.inference.copies.index_build import build_index
from memsieve.inference.copies.pixels import load_pixels
from memsieve.inference.copies.verify import verify_images
from tests.inference.copies.pictures import picture, write


def test_copies_are_found_and_strangers_are_not(index: TrainingIndex) -> None:
    assert len(index) == 25 and len(index.errors) == 1 and index.null is not None and len(index.null) == 25
    queries = torch.stack([load_pixels(picture(n, size=52), index.side) for n in (3, 17, 500)])
    matches = verify_images(index, ["a", "b", "c"], list(queries), k=2)
    assert [m.neighbours[0].caption for m in matches[:2]] == ["caption 3 <b>", "caption 17 <b>"]
    assert matches[0].neighbours[0].copies == 4 and matches[1].neighbours[0].copies == 1
    assert [m.copy for m in matches] == [True, True, False], "another size of the image is still the image"
    assert matches[0].p == pytest.approx(1 / 26) and matches[0].neighbours[0].distance < 0.12
    assert matches[0].neighbours[1].distance >= matches[0].neighbours[0].distance


def test_the_search_equals_brute_force(index: TrainingIndex) -> None:
    queries = torch.stack([load_pixels(picture(n), index.side) for n in (200, 201, 202)])
    gallery = torch.stack([load_pixels(picture(n), index.side) for n in range(25)])
    similarity = index.similarity
    expected = similarity.distance(similarity.embed(queries), similarity.embed(gallery)).sort(dim=1).values
    found = index.nearest(queries, 4, "exact")
    for row, want in zip(found, expected, strict=True):
        assert [n.distance for n in row] == pytest.approx(want[:4].tolist(), abs=1e-5)


def test_faiss_gives_the_same(index: TrainingIndex) -> None:
    pytest.importorskip("faiss")
    queries = torch.stack([load_pixels(picture(n), index.side) for n in (3, 201, 202)])
    exact, fast = (index.nearest(queries, 2, engine) for engine in ("exact", "faiss"))
    again = TrainingIndex(index.folder).nearest(queries, 2, "faiss")
    for a, b, c in zip(exact, fast, again, strict=True):
        assert [n.distance for n in a] == pytest.approx([n.distance for n in b], abs=1e-6)
        assert [n.key for n in b] == [n.key for n in c]


def test_a_shard_that_changed_is_named(shards: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "train", list(range(6)))
    built = build_index(str(folder), tmp_path / "i", similarity="pixel_l2", progress=False)
    neighbour = built.nearest(torch.stack([load_pixels(picture(2), built.side)]), 1)[0][0]
    assert built.image_bytes(neighbour) == picture(2)
    with tarfile.open(folder / "00000.tar", "w"):
        pass
    with pytest.raises(ValueError, match="no longer the one that was indexed"):
        built.image_bytes(neighbour)
