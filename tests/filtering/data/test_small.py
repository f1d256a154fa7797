"""The training pairs of a small set, decoded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.named import named_data
from memsieve.filtering.data.small import training_pairs


@pytest.fixture
def folder(tmp_path: Path) -> DataConfig:
    """Four pictures, the second of which comes three times, once with other words; one without a caption."""
    for number, said in enumerate(("a red one", "a green one", "", "a blue one")):
        Image.new("RGB", (16, 16), (40 * number, 90, 10)).save(tmp_path / f"{number}.png")
        if said:
            (tmp_path / f"{number}.txt").write_text(said)
    for name, said in (("5", "a green one"), ("6", "grass")):
        shutil.copy(tmp_path / "1.png", tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(said)
    return named_data(str(tmp_path), resolution=16, allow_empty_caption=True)


def test_each_picture_once_with_all_of_its_captions(folder: DataConfig) -> None:
    found = training_pairs(folder)
    assert [row.key for row in found.rows] == ["0", "1", "2", "3"] and found.whole
    assert list(found.captions.values()) == [["a red one"], ["a green one", "grass"], [], ["a blue one"]]
    assert list(found.repeats.values()) == [1, 3, 1, 1]
    assert (found.rows_read, found.without_caption) == (6, 1)
    assert set(found.of_caption) == {"a red one", "a green one", "grass", "a blue one"}


def test_of_a_large_set_the_first_or_the_named(folder: DataConfig) -> None:
    first = training_pairs(folder, most=2)
    assert [row.key for row in first.rows] == ["0", "1"] and not first.whole
    last = list(training_pairs(folder).captions)[-1]
    assert [row.key for row in training_pairs(folder, most=2, among=frozenset({last})).rows] == ["3"]


def test_named_groups_are_added_with_all_that_is_known_of_them(folder: DataConfig) -> None:
    whole, first = training_pairs(folder), training_pairs(folder, most=2)
    second, last = list(whole.captions)[1], list(whole.captions)[-1]
    found = first.with_groups(folder, [second, last])
    assert [row.key for row in found.rows] == ["0", "1", "3"] and not found.whole
    assert found.captions[second] == ["a green one", "grass"] and found.repeats[second] == 3
    assert found.captions[last] == ["a blue one"] and found.repeats[last] == 1
    assert whole.with_groups(folder, [last]) is whole


def test_what_is_held_out_is_no_training_pair(folder: DataConfig) -> None:
    group = next(iter(training_pairs(folder).captions))
    assert group not in training_pairs(folder, away=frozenset({group})).captions
