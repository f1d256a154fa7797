"""Settings of the data that contradict each other, or cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.settings import SettingsError, parse_settings


def test_groups_and_keys_are_two_identities() -> None:
    """Said once, by the names of both settings; in a new config and where one is changed later."""
    for values in ({"groups": "table", "group_by": "key"}, {"group_by": "key", "groups": "table"}):
        with pytest.raises(
            SettingsError, match=r"data\.groups: 'table' names groups by content.*set data\.group_by: content, or leave"
        ):
            parse_settings(DataConfig, {"path": "unused", **values})
    config = DataConfig(path="unused", groups="table")
    with pytest.raises(ValidationError, match=r"set data\.group_by: content"):
        config.group_by = "key"
    assert DataConfig(path="unused", group_by="key").groups is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"held_out_fraction": 0.5},  # more would be held out than is trained on
        {"held_out_fraction": -0.1},
        {"held_out_max": 0},
        {"resolution": 7},
        {"streams": -1},
        {"workers": -1},
        {"max_bad": -1},
        {"shuffle_buffer": -1},
        {"max_image_bytes": 0},
        {"max_image_pixels": 0},
        {"max_caption_bytes": 0},
        {"format": "csv"},
        {"crop": "left"},
        {"group_by": "caption"},
    ],
)
def test_values_that_cannot_be_meant_are_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(SettingsError, match=f"'{name}' = "):
        parse_settings(DataConfig, {"path": "unused", **wrong})


def test_what_is_dangerous_is_off_unless_it_is_asked_for() -> None:
    """Commands as shards, broken samples, pairs without a caption."""
    config = DataConfig(path="unused")
    assert not config.allow_pipe and not config.allow_empty_caption and config.max_bad == 0
