"""The index over shards: nearest pairs, duplicates, damage, resuming, faiss beside the exact search, and the pages."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.inference.copies.index import TrainingIndex, build_index, load_pixels
from memsieve.inference.copies.verify import load_files, square, verify_images, write_matches


def picture(number: int, size: int = 40) -> bytes:
    """A smooth random PNG: blobs of colour, so that resizing leaves it recognisable."""
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(stream, "PNG")
    return stream.getvalue()


def write(folder: Path, numbers: list[int], per_shard: int = 10, broken: bool = False) -> Path:
    folder.mkdir(parents=True)
    for shard, start in enumerate(range(0, len(numbers), per_shard)):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as tar:
            for i, number in enumerate(numbers[start : start + per_shard], start):
                tar.write({"__key__": f"k{i:03d}", "png": picture(number), "txt": f"caption {number} <b>".encode()})
            if broken and shard == 0:
                tar.write({"__key__": "bad", "png": b"no image", "txt": b"x"})
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder / "train", [*range(25), 3, 3, 3], broken=True)
    write(folder / "held", list(range(100, 125)))
    return folder


@pytest.fixture(scope="module", params=["tiled_l2", "pixel_l2", "phash"])
def index(request: pytest.FixtureRequest, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingIndex:
    out = tmp_path_factory.mktemp("index") / request.param
    return build_index(
        str(shards / "train"), out, similarity=request.param, held_out=str(shards / "held"), chunk=4, progress=False
    )


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


def test_building_again_does_only_what_is_missing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import memsieve.inference.copies.index as module

    done: list[str] = []
    real = module._embed_shard

    def spy(shard: str, *rest: object) -> None:
        if len(done) == 1 and not resumed:
            raise KeyboardInterrupt
        done.append(Path(shard).name)
        real(shard, *rest)  # type: ignore[arg-type]

    resumed = False
    monkeypatch.setattr(module, "_embed_shard", spy)
    with pytest.raises(KeyboardInterrupt):
        build_index(str(shards / "train"), tmp_path / "i", similarity="pixel_l2", progress=False)
    with pytest.raises(ValueError, match="was not finished"):
        TrainingIndex(tmp_path / "i")
    resumed = True
    whole = build_index(str(shards / "train"), tmp_path / "i", similarity="pixel_l2", progress=False)
    assert done == ["00000.tar", "00001.tar", "00002.tar"] and len(whole) == 25
    build_index(str(shards / "train"), tmp_path / "i", similarity="pixel_l2", progress=False)
    assert len(done) == 3
    with pytest.raises(ValueError, match="is an index with 'pixel_l2'"):
        build_index(str(shards / "train"), tmp_path / "i", similarity="phash", progress=False)


def test_pages_show_both_and_escape(index: TrainingIndex, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "<i>.png").write_bytes(picture(5, 60))
    (tmp_path / "in" / "bad.png").write_bytes(b"nothing")
    names, pixels = load_files(sorted((tmp_path / "in").iterdir()), index.side)
    matches = verify_images(index, names, pixels)
    assert "bad.png" in str(matches[1].error) and matches[1].neighbours == []
    write_matches(tmp_path / "out", index, matches, pixels)
    page = (tmp_path / "out" / "matches.html").read_text()
    assert "1 of 2 images copy a training image" in page and page.count("data:image/png;base64,") == 4
    assert "&lt;i&gt;.png" in page and "caption 5 &lt;b&gt;" in page and "<b>5" not in page and "bad.png" in page
    assert json.loads((tmp_path / "out" / "matches.json").read_text())[0]["copy"] is True


def test_a_shard_that_changed_is_named(shards: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "train", list(range(6)))
    built = build_index(str(folder), tmp_path / "i", similarity="pixel_l2", progress=False)
    neighbour = built.nearest(torch.stack([load_pixels(picture(2), built.side)]), 1)[0][0]
    assert built.image_bytes(neighbour) == picture(2)
    with tarfile.open(folder / "00000.tar", "w"):
        pass
    with pytest.raises(ValueError, match="no longer the one that was indexed"):
        built.image_bytes(neighbour)


def test_generated_tensors_are_cropped_like_files() -> None:
    image = load_pixels(picture(1, 96), 96)[None]
    wide = torch.cat([torch.ones(1, 3, 96, 20), image, torch.ones(1, 3, 96, 20)], dim=3)
    assert torch.allclose(square(wide, 96), image) and square(wide, 32).shape == (1, 3, 32, 32)
    assert (square(image, 32)[0] - load_pixels(picture(1, 96), 32)).abs().mean() < 0.03


def test_commands(shards: Path, tmp_path: Path) -> None:
    base = ["index", "--data", str(shards / "train"), "--out", str(tmp_path / "i")]
    result = CliRunner().invoke(app, [*base, "--held-out", str(shards / "held")])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert "25 distinct training images, 25 held-out images, 1 unusable" in result.output
    (tmp_path / "q.png").write_bytes(picture(7, 64))
    words = ["verify", "--index", str(tmp_path / "i"), "--out", str(tmp_path / "v")]
    result = CliRunner().invoke(app, [*words, "--images", str(tmp_path / "q.png")])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert "1 read = 1 compared + 0 failed; 1 copies" in result.output
    model = str(Path(__file__).parents[3] / "assets" / "tiny-sd")
    (tmp_path / "p.txt").write_text("red apple\n\n")
    result = CliRunner().invoke(app, [*words, "--model", model, "--prompts", str(tmp_path / "p.txt"), "--steps", "2"])
    assert result.exit_code == 0 and "line 2: the prompt is empty" in result.output
    for extra, message in (
        ([], "give either --images, or --model together with --prompts"),
        (["--images", "missing"], "there is nothing at 'missing'"),
        (["--images", str(tmp_path / "q.png"), "--engine", "magic"], "--engine = 'magic'"),
        (["--images", str(tmp_path / "q.png"), "--alpha", "0.001"], "needs at least 999 held-out images"),
        (["--images", str(tmp_path / "q.png"), "--index", str(tmp_path)], "holds no index"),
    ):
        result = CliRunner().invoke(app, [*words, *extra])
        assert isinstance(result.exception, ValueError) and message in str(result.exception), message
    result = CliRunner().invoke(app, [*base, "--similarity", "sscd"])
    assert "needs --sscd FILE" in str(result.exception)
