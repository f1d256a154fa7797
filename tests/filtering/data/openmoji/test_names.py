"""What an emoji shows: which are variants of one thing, captions, and which things are held out."""

from __future__ import annotations

import numpy as np
import pytest

from memsieve.filtering.data.openmoji.names import base_of, caption_of, colour_words, held_out_bases, rank


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("\U0001f468\U0001f3ff\u200d\U0001f33e", "1F9D1-1F33E"),  # man farmer, dark skin tone
        ("\U0001f9d1\u200d\U0001f33e", "1F9D1-1F33E"),  # farmer
        ("\U0001f469\U0001f3fb\u200d\U0001f9b0", "1F9D1"),  # woman, light skin tone, red hair
        ("\U0001f471\u200d\u2642\ufe0f", "1F9D1"),  # man, blond hair
        ("\U0001f46d", "1F9D1-1F91D-1F9D1"),  # women holding hands
        ("\U0001f3c3\u200d\u2640\ufe0f\u200d\u27a1\ufe0f", "1F3C3"),  # woman running facing right
        ("\U0001f3fc", "1F3FB"),  # a swatch
        ("\u2640\ufe0f", "2640-FE0F"),  # the sign itself
        ("\U0001f353", "1F353"),  # strawberry
    ],
)
def test_variants_share_a_base(text: str, base: str) -> None:
    assert base_of(text) == base


def test_captions_read_as_words() -> None:
    assert caption_of(":man_cook_dark_skin_tone:", "\U0001f468\U0001f3ff\u200d\U0001f373") == "man cook, dark skin tone"
    assert caption_of(":Guinea:", "\U0001f1ec\U0001f1f3") == "flag of Guinea"
    half = np.zeros((8, 8, 4), np.uint8)
    half[:6] = (234, 90, 71, 255)
    half[6:] = (92, 158, 49, 255)
    assert colour_words(half) == "red and green"


def test_held_out_bases_are_the_seeded_share_and_at_least_a_hundred() -> None:
    bases = {f"{number:04X}" for number in range(1000)}
    held = held_out_bases(bases, 0, 0.12)
    assert len(held) == 120 and held < bases and held != held_out_bases(bases, 1, 0.12)
    assert held_out_bases(bases, 0, 0.2) > held, "a larger share holds what a smaller one does"
    assert len(held_out_bases(bases, 0, 0.01)) == 100
    assert len(held_out_bases(set(sorted(bases)[:40]), 0, 0.01)) == 10


def test_the_order_is_by_seed_purpose_and_name_alone() -> None:
    orders = {tuple(sorted("abcdef", key=lambda name: rank(*by, name))) for by in ((0, "a"), (1, "a"), (0, "b"))}
    assert len(orders) == 3
