"""What is found in a folder, and what is suggested for it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.held_out import is_held_out
from memsieve.filtering.data.small import MOST
from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.suggest import Found, look_into, suggestion
from tests.train.conftest import write_shards


def found(count: int, side: int = 800, **more: object) -> Found:
    """So many pictures, with as many captions."""
    names = [f"{number:064x}" for number in range(count)]
    return Found("folder", names, captions=set(names), sides=[side] * count, **more)  # type: ignore[arg-type]


def png(width: int, height: int, colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (colour, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def test_every_suggestion_is_a_config_that_passes() -> None:
    for count in (2, 3, 10, 28, 40, 100, 500, 2000):
        for full in (False, True):
            raw = suggestion(Path("pictures"), found(count, whole=count < 2000), "some/model", "runs/x", full)
            config = RunConfig.model_validate(raw)
            assert config.filter.policy == ("retire" if count <= MOST else "drop"), count


def test_a_small_set_has_two_held_out_and_a_hundred_passes_over_the_rest() -> None:
    for count in (10, 28, 40, 300):
        looked = found(count)
        raw = suggestion(Path("pictures"), looked, "some/model", "runs/x")
        out = sum(is_held_out(group, raw["data"]["held_out_fraction"]) for group in looked.groups)
        assert max(2, count // 10) <= out <= count // 2
        visits = raw["train"]["steps"] * raw["train"]["batch_size"]
        assert abs(visits - 100 * (count - out)) < raw["train"]["batch_size"] or raw["train"]["steps"] == 100


def test_the_resolution_is_what_pictures_and_model_have(tmp_path: Path) -> None:
    def resolution(side: int, model: str) -> int:
        return int(suggestion(Path("p"), found(10, side), model, "runs/x")["data"]["resolution"])

    assert resolution(800, "stable-diffusion-v1-5/stable-diffusion-v1-5") == 512
    assert resolution(400, "stable-diffusion-v1-5/stable-diffusion-v1-5") == 256
    assert resolution(3000, "stabilityai/stable-diffusion-xl-base-1.0") == 1024
    for name, values in (("unet", {"sample_size": 16}), ("vae", {"block_out_channels": [32, 64, 64]})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(values))
    assert resolution(256, str(tmp_path)) == 64


def test_what_lies_in_a_folder_is_counted(tmp_path: Path) -> None:
    for number, (width, height) in enumerate(((40, 60), (80, 50), (40, 60))):
        (tmp_path / f"{number}.png").write_bytes(png(width, height, number % 2))
        (tmp_path / f"{number}.txt").write_text("one caption")
    (tmp_path / "bare.png").write_bytes(png(10, 10, 9))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    (tmp_path / "broken.txt").write_text("broken")
    looked = look_into(tmp_path)
    assert looked.format == "folder" and looked.whole and looked.small
    assert sorted(looked.sides) == [40, 50], "the third is the first anew"
    assert looked.without_caption == 1 and looked.unreadable == 1 and looked.captions == {"one caption"}


def test_shards_and_datasets_are_told_from_folders(tmp_path: Path) -> None:
    import datasets

    write_shards(tmp_path / "shards", 4)
    rows = {"image": [Image.new("RGB", (20, 20), (number, 0, 0)) for number in range(3)], "text": ["a", "b", "c"]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "hf"))
    for name, kind, count in (("shards", "webdataset", 4), ("hf", "hf", 3)):
        looked = look_into(tmp_path / name)
        assert looked.format == kind and len(looked.groups) == count
        assert DataConfig.model_validate({"format": looked.format, "path": str(tmp_path / name)})


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is no folder; name one that holds pictures"):
        look_into(tmp_path / "none")
