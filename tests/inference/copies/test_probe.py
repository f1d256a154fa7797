"""The probe by captions: which prompts are drawn, and what the judge compares them with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.probe import Prompt, judge_for, probe_model, prompts_of, shard_images
from memsieve.inference.copies.similarity import PixelL2
from memsieve.inference.generate import GenerateSettings, load_pipeline
from memsieve.inference.resume import ImageStore

TINY = Path(__file__).resolve().parents[3] / "assets" / "tiny-sd"


def test_planted_pairs_and_as_many_ordinary_ones_as_asked(data: Path) -> None:
    planted, ordinary = prompts_of(data, ordinary=5)
    assert [p.repeats for p in planted] == [3, 3] and [p.repeats for p in ordinary] == [1] * 5
    assert not {p.group for p in planted} & {p.group for p in ordinary}
    assert prompts_of(data, ordinary=5) == (planted, ordinary) != prompts_of(data, ordinary=5, seed=1)


def test_the_judge_knows_every_group_once(data: Path) -> None:
    judge = judge_for(data)
    groups = {p.group for part in prompts_of(data, ordinary=1000) for p in part}
    assert set(judge.groups) == groups and len(judge.groups) == len(groups) and judge.threshold > 0
    pixels = dict(shard_images(data / "train"))
    (found,) = judge.judge(pixels[judge.keys[3]][None], [judge.groups[3]])
    assert found.is_copy and found.distance < 1e-4 and shard_images(data / "train", 16)[0][1].shape == (3, 16, 16)


def test_images_of_a_store_are_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(30, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    judge = CopyJudge(PixelL2(), images[:10], [str(i) for i in range(10)])
    judge.calibrate(images[10:])
    prompts, store = [Prompt("a cat", "3", "k3", 1)], ImageStore(tmp_path / "s", {}, False)
    settings, pipe = GenerateSettings(steps=1), load_pipeline(TINY)
    first = probe_model(pipe, prompts, judge, seeds=2, settings=settings, store=store, progress=False)
    assert [v.group for v in first.verdicts] == ["3", "3"] and first.as_dict()["rate"]["generations"] == 2
    monkeypatch.setattr("memsieve.inference.resume.generate", lambda *_, **__: pytest.fail("nothing is left to draw"))
    again = probe_model(pipe, prompts, judge, seeds=2, settings=settings, store=store, progress=False)
    assert torch.equal(first.generations, again.generations)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no truth\.parquet"):
        prompts_of(tmp_path)
    with pytest.raises(ValueError, match="no images in the shards"):
        shard_images(tmp_path)
