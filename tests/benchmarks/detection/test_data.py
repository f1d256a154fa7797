"""The model, the planted pairs and the judge of the benchmarks of detection."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.detection.data import Bench
from memsieve.inference.copies.probe import shard_images
from tests.benchmarks.planted_data import planted_data, planted_groups_of


def test_ordinary_captions_are_of_no_planted_pair_and_of_their_own_split(model: Path, data: Path) -> None:
    bench = Bench(model, data, 8)
    assert {pair.group for pair in bench.planted} == planted_groups_of(data)
    split_of = {row["caption"]: row["split"] for row in pq.read_table(data / "truth.parquet").to_pylist()}
    planted = {pair.caption for pair in bench.planted}
    for split, captions in bench.captions.items():
        assert len(captions) == len(set(captions)) == 8 and not planted & set(captions)
        assert {split_of[caption] for caption in captions} == {split}
    assert bench.captions == Bench(model, data, 8).captions, "drawn by a fixed seed"
    assert sorted(bench.base[caption] for caption in planted) == ["base 0", "base 1", "base 2"]


def test_the_judge_knows_training_images_and_is_calibrated_by_held_out_ones(model: Path, data: Path) -> None:
    bench = Bench(model, data, 1)
    pixels, held = dict(shard_images(data / "train")), shard_images(data / "held_out")
    own = torch.stack([pixels[pair.key] for pair in bench.planted])
    groups = [pair.group for pair in bench.planted]
    assert all(verdict.is_copy for verdict in bench.judge.judge(own, groups))
    strange = torch.stack([image for _, image in held[: len(groups)]])
    assert not any(verdict.is_copy for verdict in bench.judge.judge(strange, groups))
    assert bench.judge is bench.judge


def test_data_without_planted_pairs_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no planted pairs; build it with --plant"):
        Bench(model, planted_data(tmp_path / "data", [], ordinary=4, held_out=4), 4)
