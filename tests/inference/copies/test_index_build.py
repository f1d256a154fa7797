"""Building an index again does only what is missing or has changed."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import pytest
from PIL import Image

from memsieve.filtering.data.rows import content_id
from memsieve.inference.copies.index import TrainingIndex
from memsieve.inference.copies.index_build import build_index
from memsieve.inference.copies.pixels import load_pixels
from tests.inference.copies.pictures import picture


def test_building_again_does_only_what_is_missing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import memsieve.inference.copies.index_build as module

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


def test_an_image_folder_and_a_dataset_on_disk_are_indexed_as_shards_are(tmp_path: Path) -> None:
    for folder, first in (("train", 0), ("held_out", 100)):
        for number in range(first, first + 4):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{number}.png").write_bytes(picture(number))
            (tmp_path / folder / f"{number}.txt").write_text(f"thing {number}")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    images = [Image.open(io.BytesIO(picture(number))) for number in range(4)]
    rows = {"image": images, "text": [f"thing {number}" for number in range(4)]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "hf"))
    for kind in ("train", "hf"):
        arguments = (str(tmp_path / kind), tmp_path / f"index-{kind}")
        built = build_index(*arguments, similarity="pixel_l2", held_out=str(tmp_path / "held_out"), progress=False)
        assert len(built) == 4 and built.null is not None and len(built.null) == 4
        nearest = built.nearest(load_pixels(picture(2), built.side)[None], 1)[0][0]
        assert nearest.caption == "thing 2" and nearest.distance < 1e-3
        assert content_id(built.image_bytes(nearest)) == nearest.group
    before = (tmp_path / "index-train" / "00000.npy").stat().st_mtime_ns
    build_index(str(tmp_path / "train"), tmp_path / "index-train", similarity="pixel_l2", progress=False)
    assert (tmp_path / "index-train" / "00000.npy").stat().st_mtime_ns == before, "nothing has changed"
    (tmp_path / "train" / "9.png").write_bytes(picture(9))
    (tmp_path / "train" / "9.txt").write_text("thing 9")
    assert (
        len(build_index(str(tmp_path / "train"), tmp_path / "index-train", similarity="pixel_l2", progress=False)) == 5
    )
