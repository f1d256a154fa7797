"""Which pairs are planted: coloured, the only image of their base, unlike every other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memsieve.filtering.data.openmoji.names import Emoji
from memsieve.filtering.data.openmoji.pictures import Picture
from memsieve.filtering.data.openmoji.planting import Plant, choose_planted, parse_plant


def picture(name: str, place: int, base: str | None = None, flag: bool = False, vivid: bool = True) -> Picture:
    thumb = np.zeros(768, dtype=np.float32)
    thumb[64 * place : 64 * place + 64] = 1.0
    return Picture(Emoji(name, name, base or name, Path(f"{name}.svg"), flag), name, name.encode(), thumb, vivid)


FIT = [picture(f"fit{place}", place) for place in range(4)]
UNFIT = [
    picture("flag", 4, flag=True),
    picture("grey", 5, vivid=False),
    picture("light", 6, base="person"),
    picture("dark", 7, base="person"),
    picture("twin", 8),
    picture("other twin", 8),
]


def test_plants_are_read_and_refused() -> None:
    assert parse_plant(" 8X268 ") == Plant(8, 268)
    for text in ("8", "x5", "0x3", "3x0"):
        with pytest.raises(ValueError, match="plant"):
            parse_plant(text)


def test_only_fit_images_are_planted_each_for_one_plant() -> None:
    pictures = FIT + UNFIT
    chosen = choose_planted(pictures, pictures, [Plant(1, 20), Plant(3, 7)], seed=0)
    assert set(chosen) == {item.emoji.name for item in FIT}
    assert sorted(chosen.values()) == [7, 7, 7, 20]
    assert choose_planted(pictures, pictures, [], seed=0) == {}
    with pytest.raises(ValueError, match="5 planted pairs are asked for and 4 images are fit"):
        choose_planted(pictures, pictures, [Plant(5, 2)], seed=0)


def test_a_held_out_look_alike_keeps_an_image_from_being_planted() -> None:
    pictures = [*FIT, picture("held out", 0)]
    assert set(choose_planted(FIT, pictures, [Plant(3, 2)], seed=0)) == {"fit1", "fit2", "fit3"}
