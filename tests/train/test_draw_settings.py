"""What the draws of a run depend on is what its config says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from memsieve.train.config import RunConfig
from memsieve.train.draw_settings import DrawSettings

MakeConfig = Callable[..., RunConfig]


def test_every_draw_takes_its_setting_from_the_config(make_config: MakeConfig) -> None:
    own = {"seed": 7, "caption_dropout": 0.2, "random_tokens": 3, "noise_offset": 0.05, "input_perturbation": 0.1}
    found = DrawSettings.of(make_config(train=own, filter={"max_timestep": 0.6}))
    assert asdict(found) == {**own, "resolution": 16, "max_timestep": 0.6}


def test_without_the_filter_no_timestep_is_set_apart(make_config: MakeConfig) -> None:
    off = make_config(filter={"enabled": False, "max_timestep": 0.6})
    assert DrawSettings.of(off).max_timestep == 1.0 == DrawSettings(3, 16).max_timestep
    assert DrawSettings.of(make_config()).max_timestep == 0.75, "the rule's own share"
