"""Known edits of a picture: each does what its name says, to a picture of any size, by its seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from memsieve.filtering.identity.edits import EDITS, edited


def picture(width: int = 120, height: int = 80) -> Image.Image:
    """No two places alike, left of the middle darker than right of it."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 255 // width, rows * 255 // height, (rows * 7 + columns * 3) % 97], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def apart(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of pixels, of 255."""
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other.resize(one.size), np.float64)).mean())


@pytest.mark.parametrize("name", EDITS)
def test_equal_seeds_give_equal_pictures_and_each_edit_changes_something(name: str) -> None:
    one, again = edited(name, picture(), [1, 2]), edited(name, picture(), [1, 2])
    assert one.mode == "RGB" and np.array_equal(np.asarray(one), np.asarray(again))
    assert one.size != (120, 80) or apart(one, picture()) > 0.5


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("size", [(1, 1), (3, 200)])
def test_the_smallest_and_the_narrowest_pictures_are_edited_too(name: str, size: tuple[int, int]) -> None:
    made = edited(name, picture(*size), [0])
    assert min(made.size) >= 1


@pytest.mark.parametrize(("name", "kept"), [("crop 5 %", 0.95), ("crop 12 %", 0.88), ("crop 25 %", 0.75)])
def test_a_crop_keeps_that_much_of_each_side_somewhere_in_the_picture(name: str, kept: float) -> None:
    whole = np.asarray(picture())
    places = set()
    for seed in range(6):
        made = np.asarray(edited(name, picture(), [seed]))
        assert made.shape == (round(80 * kept), round(120 * kept), 3)
        found = [
            (top, left)
            for top in range(80 - made.shape[0] + 1)
            for left in range(120 - made.shape[1] + 1)
            if np.array_equal(whole[top : top + made.shape[0], left : left + made.shape[1]], made)
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 1, "not always the same corner"


def test_single_edits() -> None:
    assert np.array_equal(np.asarray(edited("mirror", picture(), [0])), np.asarray(picture())[:, ::-1])
    assert edited("half size", picture(), [0]).size == (60, 40)
    pressed = edited("JPEG 30", picture(), [0])
    assert pressed.size == (120, 80) and 0.5 < apart(pressed, picture()) < 20
    turned = [edited("rotate 5 degrees", picture(), [seed]) for seed in range(8)]
    assert {made.size for made in turned} == {(120, 80)}
    assert len({made.tobytes() for made in turned}) == 2, "to one side or the other"


def test_a_banner_covers_a_strip_and_leaves_the_rest() -> None:
    whole, tops = np.asarray(picture()), set()
    for seed in range(8):
        made = np.asarray(edited("banner", picture(), [seed]))
        changed = np.flatnonzero((made != whole).any((1, 2)))
        assert 9 <= len(changed) <= 13, "a seventh of 80 rows"
        tops.add(int(changed[0]) == 0)
    assert tops == {True, False}


def test_a_recoloured_picture_keeps_its_shapes() -> None:
    for seed in range(6):
        made = edited("recolour", picture(), [seed])
        assert apart(made, picture()) > 3
        grey, before = (np.asarray(p.convert("L"), np.float64).ravel() for p in (made, picture()))
        assert np.corrcoef(grey, before)[0, 1] > 0.8


def test_an_unknown_edit_is_an_error() -> None:
    with pytest.raises(KeyError, match="polish"):
        edited("polish", picture(), [0])
