"""Ways to minimise: their settings are settings, and what is measured of pictures is of the right prompts."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.common import NUMBERS
from benchmarks.detection import alignment
from benchmarks.detection.data import Bench
from benchmarks.detection.minimisation import WAYS, Study, alignment_of
from benchmarks.detection.minimisation_page import SHIPPED
from memsieve.cli.minimize import minimize
from memsieve.inference.copies.probe import shard_images
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.minimize.settings import MinimizeSettings


@pytest.mark.parametrize("name", WAYS)
def test_a_way_is_what_it_is_called(name: str) -> None:
    quantile = WAYS[name]["quantile"]
    how = MinimizeSettings(**{key: value for key, value in WAYS[name].items() if key != "quantile"})
    method, *where, target = name.split(", ")
    assert method == how.method and (where or ["all"]) == [how.tokens]
    assert (0.5 if target == "median" else float(target)) == quantile


def test_the_way_that_is_called_shipped_is_what_the_command_does() -> None:
    """But for the most updates: the published prompts all met their target within those of the command."""
    given, way = {name: option.default for name, option in signature(minimize).parameters.items()}, WAYS[SHIPPED]
    assert (given["target_quantile"], given["method"], given["tokens"]) == (way["quantile"], way["method"], "all")
    assert MinimizeSettings(method=given["method"], lr=given["lr"]).learning_rate == way["lr"]
    files = sorted(NUMBERS.glob("minimize-*.json"))
    assert files
    for file in files:
        found = json.loads(file.read_text())["ways"][SHIPPED]
        assert max(found["updates"]) < given["iterations"] and set(found["met"]) == {1.0}, file.name


def test_of_each_prompt_the_share_of_its_own_pictures_that_copies(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that are the planted images themselves, beside held-out ones; the encoder saw no planted pair."""
    monkeypatch.setattr(alignment, "RANK", 6)
    monkeypatch.setattr(alignment, "WIDTH", 4)
    bench = Bench(model, data, 99)
    rows = {row["key"]: row for row in pq.read_table(data / "truth.parquet").to_pylist()}
    aligned, about = alignment_of(bench, data, rows)
    assert about["pairs"] == 12 and all(0.0 <= about[name] <= 1.0 for name in ("held_out_8_way", "planted_8_way"))
    study = Study(bench, aligned, DetectSettings(), [pair.caption for pair in bench.planted], images=2)
    pixels, held = dict(shard_images(data / "train")), shard_images(data / "held_out")
    own, strange = [pixels[pair.key] for pair in bench.planted], [image for _, image in held]
    pictures = [own[0], strange[0], own[1], own[1], strange[1], own[0]]  # the last copies a pair, but not its prompt's
    found = study.measured(torch.stack(pictures))
    assert found["copies"] == [0.5, 1.0, 0.0]
    fits = aligned(torch.stack(pictures), [caption for caption in study.captions for _ in range(2)]).tolist()
    assert found["alignment"] == pytest.approx([(fits[i] + fits[i + 1]) / 2 for i in (0, 2, 4)])
