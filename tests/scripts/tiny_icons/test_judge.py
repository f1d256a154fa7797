"""The judge: what it is asked, and that it finds what is there to find."""

from __future__ import annotations

import torch

from scripts.tiny_icons.judge import plain_caption, retrieved, train_judge
from scripts.tiny_icons.pictures import SIZE, Shown

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}


def flat(number: int, colour: str, side: str, style: str = "noto") -> Shown:
    pixels = torch.full((3, SIZE, SIZE), 255, dtype=torch.uint8)
    half = slice(0, SIZE // 2) if side == "left" else slice(SIZE // 2, SIZE)
    pixels[:, :, half] = torch.tensor(COLOURS[colour], dtype=torch.uint8)[:, None, None]
    return Shown(pixels, f"{side} thing {number}, {colour}, {style} style", f"{side} {colour} {number}", style)


ROWS = [flat(i, colour, side) for i in range(16) for colour in COLOURS for side in ("left", "right")]


def test_a_style_is_not_asked_for() -> None:
    assert plain_caption("red apple, red and green, noto style") == "red apple, red and green"


def test_a_trained_judge_tells_pictures_apart_and_an_exchange_is_seen() -> None:
    judge = train_judge(ROWS, epochs=20, seeds=[0])
    rows = [flat(100 + i, colour, side) for i in range(4) for colour in COLOURS for side in ("left", "right")]
    images = torch.stack([row.pixels for row in rows]).float() / 127.5 - 1
    own, other = retrieved(judge, images, rows), retrieved(judge, images.flip(0), rows)
    assert own.pictures == len(rows) and own.whole > other.whole + 0.1
