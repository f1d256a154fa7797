"""The probe of a dataset, by caption and by attack."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import to_picture
from memsieve.filtering.data.named import named_data
from memsieve.filtering.data.small import training_pairs
from memsieve.inference.copies import probe_run
from memsieve.inference.copies.attack import AttackSettings
from memsieve.inference.copies.probe import prompts_of, shard_images
from memsieve.inference.copies.probe_run import ProbeSettings, probe_dataset, probe_store
from memsieve.inference.opened import open_model

TINY = Path(__file__).parents[3] / "assets" / "tiny-sd"


def named(data: Path) -> DataConfig:
    return named_data(str(data / "train"), resolution=32, held_out_path=str(data / "held_out"))


def test_controls_are_attacked_beside_the_chosen_pairs(data: Path) -> None:
    drawing = AttackSettings(updates=1, batch=1, images=1, steps=1)
    pipe, asked = open_model(TINY).pipe, ProbeSettings(attack=True, drawing=drawing, controls=2, most=2)
    found = probe_dataset(pipe, named(data), asked, progress=False)
    assert {names: result.rate.generations for names, result in found.items()} == {
        ("chosen pairs", "caption"): 2, ("chosen pairs", "attack"): 2, ("held-out controls", "attack"): 2,
    }  # fmt: skip
    repeated = {v.group for v in found["chosen pairs", "attack"].verdicts}
    assert repeated == {prompt.group for prompt in prompts_of(data)[0]}, "those with the most rows"
    assert repeated == {v.group for v in found["chosen pairs", "caption"].verdicts}
    assert all(v.group.startswith("control:") for v in found["held-out controls", "attack"].verdicts)
    (group,) = sorted(repeated)[:1]
    alone = probe_dataset(pipe, named(data), ProbeSettings(groups=[group], drawing=drawing), progress=False)
    assert list(alone) == [("chosen pairs", "caption")]
    assert [v.group for v in alone["chosen pairs", "caption"].verdicts] == [group]


def test_beside_its_base_both_are_also_drawn_beyond_the_model(data: Path) -> None:
    drawing = AttackSettings(updates=1, batch=12, images=1, steps=1)
    model, asked = open_model(TINY, base=str(TINY)), ProbeSettings(attack=True, drawing=drawing, controls=1, most=2)
    found = probe_dataset(model, named(data), asked, progress=False)
    base, controls = found["chosen pairs", "base"], found["held-out controls", "base"]
    assert base.rate.generations == 2 and controls.rate.generations == 1
    assert {v.group for v in base.verdicts} == {v.group for v in found["chosen pairs", "caption"].verdicts}
    assert all(v.group.startswith("control:") for v in controls.verdicts)


def test_an_image_folder_is_probed_too(data: Path, tmp_path: Path) -> None:
    for part, count in (("train", 6), ("held_out", 24)):
        (tmp_path / part).mkdir()
        for number, (_, pixels) in enumerate(shard_images(data / part)[:count]):
            (tmp_path / part / f"{number}.txt").write_text(f"thing {number}")
            to_picture(pixels).save(tmp_path / part / f"{number}.png")
    shutil.copy(tmp_path / "train" / "4.png", tmp_path / "train" / "again.png")
    (tmp_path / "train" / "again.txt").write_text("thing 4")
    drawing = AttackSettings(images=1, steps=1)
    found = probe_dataset(open_model(TINY).pipe, named(tmp_path), ProbeSettings(drawing=drawing, most=3))
    groups = [v.group for v in found["chosen pairs", "caption"].verdicts]
    pairs = training_pairs(named(tmp_path))
    assert len(groups) == 3 and pairs.captions[groups[0]] == ["thing 4"], "the one that comes twice is first"
    assert pairs.repeats[groups[0]] == 2 and sorted(pairs.repeats.values()) == [1, 1, 1, 1, 1, 2]


def test_named_groups_stand_in_the_gallery_of_a_large_set(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = training_pairs(named(data))
    few = training_pairs(named(data), most=5)
    monkeypatch.setattr(probe_run, "training_pairs", lambda config: training_pairs(config, 5))
    group = list(whole.captions)[-1]
    assert group not in few.captions
    drawing = AttackSettings(images=1, steps=1)
    found = probe_dataset(open_model(TINY).pipe, named(data), ProbeSettings(groups=[group], drawing=drawing))
    assert [v.group for v in found["chosen pairs", "caption"].verdicts] == [group]


def test_a_store_is_of_one_probe(data: Path, tmp_path: Path) -> None:
    pipe, settings, asked = open_model(TINY).pipe, ProbeSettings(), named(data)
    probe_store(tmp_path / "s", pipe, asked, settings, "float32", False).save("x", torch.zeros(1, 3, 4, 4))
    assert probe_store(tmp_path / "s", pipe, asked, settings, "float32", True).load("x") is not None
    beside = open_model(TINY, base=str(TINY))
    with pytest.raises(ValueError, match="begun with another base"):
        probe_store(tmp_path / "s", beside, asked, settings, "float32", True)
    with pytest.raises(ValueError, match="begun with another groups"):
        probe_store(tmp_path / "s", pipe, asked, replace(settings, groups=["a"]), "float32", True)


def test_refusals(data: Path, tmp_path: Path) -> None:
    pipe = open_model(TINY).pipe
    with pytest.raises(
        ValueError, match=r"'nobody' is no group with a caption of the training pairs \(1 are unknown\)"
    ):
        probe_dataset(pipe, named(data), ProbeSettings(groups=["nobody"]))
    count = len(shard_images(data / "held_out"))
    with pytest.raises(ValueError, match=rf"--held-out: {count + 1} pictures .* there are {count}; name more"):
        probe_dataset(pipe, named(data), ProbeSettings(attack=True, controls=count - 18))
