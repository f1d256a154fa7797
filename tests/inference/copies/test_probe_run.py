"""The probe of a dataset folder, by caption and by attack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memsieve.inference.copies.attack import AttackSettings
from memsieve.inference.copies.probe_run import ProbeSettings, probe_dataset, probe_store
from memsieve.inference.opened import open_model

TINY = Path(__file__).parents[3] / "assets" / "tiny-sd"


def test_controls_are_attacked_beside_the_chosen_pairs(data: Path) -> None:
    drawing = AttackSettings(updates=1, batch=1, images=1, steps=1)
    pipe = open_model(TINY).pipe
    found = probe_dataset(pipe, data, ProbeSettings(attack=True, drawing=drawing, controls=2), progress=False)
    assert {names: result.rate.generations for names, result in found.items()} == {
        ("chosen pairs", "caption"): 2, ("chosen pairs", "attack"): 2, ("held-out controls", "attack"): 2,
    }  # fmt: skip
    planted = {v.group for v in found["chosen pairs", "attack"].verdicts}
    assert planted == {v.group for v in found["chosen pairs", "caption"].verdicts}
    assert all(v.group.startswith("control:") for v in found["held-out controls", "attack"].verdicts)
    (group,) = sorted(planted)[:1]
    alone = probe_dataset(pipe, data, ProbeSettings(groups=[group], drawing=drawing), progress=False)
    assert list(alone) == [("chosen pairs", "caption")]
    assert [v.group for v in alone["chosen pairs", "caption"].verdicts] == [group]


def test_beside_its_base_both_are_also_drawn_beyond_the_model(data: Path) -> None:
    drawing = AttackSettings(updates=1, batch=12, images=1, steps=1)
    model = open_model(TINY, base=str(TINY))
    found = probe_dataset(model, data, ProbeSettings(attack=True, drawing=drawing, controls=1), progress=False)
    base, controls = found["chosen pairs", "base"], found["held-out controls", "base"]
    assert base.rate.generations == 2 and controls.rate.generations == 1
    assert {v.group for v in base.verdicts} == {v.group for v in found["chosen pairs", "caption"].verdicts}
    assert all(v.group.startswith("control:") for v in controls.verdicts)


def test_a_store_is_of_one_probe(data: Path, tmp_path: Path) -> None:
    pipe, settings = open_model(TINY).pipe, ProbeSettings()
    probe_store(tmp_path / "s", pipe, data, settings, "float32", False).save("x", torch.zeros(1, 3, 4, 4))
    assert probe_store(tmp_path / "s", pipe, data, settings, "float32", True).load("x") is not None
    beside = open_model(TINY, base=str(TINY))
    with pytest.raises(ValueError, match="begun with another base"):
        probe_store(tmp_path / "s", beside, data, settings, "float32", True)
    with pytest.raises(ValueError, match="begun with another groups"):
        probe_store(tmp_path / "s", pipe, data, replace(settings, groups=["a"]), "float32", True)


def test_refusals(data: Path, tmp_path: Path) -> None:
    pipe = open_model(TINY).pipe
    with pytest.raises(ValueError, match=r"has no truth\.parquet"):
        probe_dataset(pipe, tmp_path, ProbeSettings())
    with pytest.raises(ValueError, match=r"'nobody' is no group of the training split \(1 are unknown\)"):
        probe_dataset(pipe, data, ProbeSettings(groups=["nobody"]))
