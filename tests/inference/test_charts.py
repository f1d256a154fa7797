"""Pictures of results: colours, and that any text and any scores can be drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from memsieve.inference.charts import heat_colour, histogram, side_by_side, word_picture


def test_colours_go_from_white_to_dark_and_stay_there() -> None:
    assert heat_colour(0.0) == heat_colour(-1.0) == "#ffffff" and heat_colour(1.0) == heat_colour(2.0) == "#f0783c"
    assert heat_colour(0.5) not in (heat_colour(0.0), heat_colour(1.0))


def test_scores_that_are_not_finite_or_missing_are_left_out(tmp_path: Path) -> None:
    groups = {"a": np.asarray([1.0, np.nan, np.inf, 2.0]), "b": np.asarray([])}
    histogram(tmp_path / "h.png", groups, threshold=9.0, label="x")
    assert Image.open(tmp_path / "h.png").size[0] > 500


def test_words_are_no_mathematics_and_long_ones_are_cut(tmp_path: Path) -> None:
    word_picture(tmp_path / "w.png", [("$x_1$", 1.0), ("w" * 500, 0.5), *[("word", 0.0)] * 40], title="$t")
    wide, high = Image.open(tmp_path / "w.png").size
    word_picture(tmp_path / "one.png", [("word", 1.0)])
    assert Image.open(tmp_path / "one.png").size == (wide, Image.open(tmp_path / "one.png").size[1])
    assert high > Image.open(tmp_path / "one.png").size[1], "wrapped into lines"


def test_rows_of_images_may_differ_in_number(tmp_path: Path) -> None:
    side_by_side(tmp_path / "s.png", {"two": torch.zeros(2, 3, 8, 8), "one": torch.ones(1, 3, 8, 8)})
    assert Image.open(tmp_path / "s.png").size[0] > 200
