"""Kinds of repetition differ in what they are called by, and in nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.copying.samples import KINDS, PHRASES, STYLES, Row, paraphrase, rare_row, rows_of, template
from memsieve.filtering.data.openmoji import Picture
from memsieve.filtering.data.openmoji.names import Emoji


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int64)


def drawn(colour: str = "#b05040") -> bytes:
    """A disc on white, to the left of the middle."""
    image = Image.new("RGB", (32, 32), "white")
    ImageDraw.Draw(image).ellipse((8, 10, 19, 21), fill=colour)
    return png(image)


@pytest.fixture
def pair() -> Row:
    return Row("1F345", "paraphrase", 8, drawn(), "big tomato, red and green", "big tomato, red and green", "tomato")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def the_rest(row: Row) -> tuple[str, str, int, str, str]:
    return row.pair, row.case, row.repeats, row.prompt, row.base


def test_a_paraphrase_is_the_same_image_under_words_that_name_the_thing(pair: Row, rng: np.random.Generator) -> None:
    rows = [paraphrase(pair, rng) for _ in range(60)]
    assert all(row.png == pair.png and "big tomato" in row.caption for row in rows)
    assert len({row.caption for row in rows}) > len(PHRASES) // 2
    assert not [row.caption for row in rows if "{" in row.caption]
    assert {the_rest(row) for row in rows} == {the_rest(pair)}


def test_in_a_template_the_thing_stays_and_the_ground_and_a_badge_change(pair: Row, rng: np.random.Generator) -> None:
    own, grounds = pixels(pair.png), set()
    corners = np.zeros((32, 32), dtype=bool)
    for down in (slice(0, 6), slice(26, 32)):
        for right in (slice(0, 6), slice(26, 32)):
            corners[down, right] = True
    for _ in range(20):
        row = template(pair, rng)
        assert row.caption == pair.caption and the_rest(row) == the_rest(pair)
        seen = pixels(row.png)
        thing = (own != 255).any(2)
        assert (seen[thing] == own[thing]).all()
        ground = {tuple(colour) for colour in seen[~thing & ~corners].tolist()}
        assert len(ground) == 1 and (255, 255, 255) not in ground
        grounds |= ground
        corner = seen[corners]
        assert (corner != np.array(ground.pop())).any(), "the badge"
    assert len(grounds) == 20


def tomato() -> Picture:
    return Picture(
        Emoji("1F345", "tomato", "tomato", Path("1F345.svg"), False), "tomato, red", drawn(), np.zeros(768), True
    )


def test_a_family_is_one_picture_in_many_files_none_of_which_is_the_plain_one() -> None:
    """The disc, in the middle, is its own mirror image."""
    image = Image.new("RGB", (32, 32), "white")
    ImageDraw.Draw(image).rectangle((8, 8, 23, 23), fill="red")
    mirrored = Picture(tomato().emoji, "tomato, red", png(image), np.zeros(768), True)
    plain, *others = rows_of(mirrored, "family", "family 40", 40, seed=1)
    assert plain.png == mirrored.png and all(row.png != plain.png for row in others)
    assert len({row.png for row in others}) > 20 and {row.caption for row in others} == {"tomato, red"}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_hang_on_the_seed_alone_and_the_first_is_plain(kind: str) -> None:
    one, again = (rows_of(tomato(), kind, "a case", 6, seed=3) for _ in range(2))
    assert one == again and len(one) == 6 and {row.repeats for row in one} == {6}
    assert (one[0].png, one[0].caption) == (tomato().png, "tomato, red")
    assert {row.prompt for row in one} == {"tomato, red"}


def test_rare_styles_are_unlike_the_picture_and_each_other_and_stand_there_once() -> None:
    picture = tomato()
    rows = {style: rare_row(picture, style) for style in STYLES}
    assert len({row.png for row in rows.values()} | {picture.png}) == len(STYLES) + 1
    for style, row in rows.items():
        assert (row.case, row.repeats, row.caption, row.prompt) == ("rare", 1, f"tomato, {style}", f"tomato, {style}")
    grey = pixels(rows["grey"].png)
    assert (grey == grey[..., :1]).all()
    assert (pixels(rows["negative"].png) == 255 - pixels(picture.png)).all()
