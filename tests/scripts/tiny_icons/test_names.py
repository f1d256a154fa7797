"""Icons' names: their words, the things that they show, and which of those are held out."""

from __future__ import annotations

import pytest

from scripts.tiny_icons.names import concept_of, drawable, held_out_concepts, is_variant, joined_names, words_of


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("boy-light-skin-tone", True), ("boy-medium-dark", True), ("people-holding-hands-light-dark", True),
        ("boy", False), ("light-bulb", False), ("dark-skin", False), ("flashlight", False),
    ],
)  # fmt: skip
def test_skin_tones_are_variants(name: str, variant: bool) -> None:
    assert is_variant(name) == variant


def test_words_are_found_where_a_set_writes_them_as_one() -> None:
    joined = joined_names(["hot-air-balloon", "sun"])
    assert words_of("hotairballoon", joined) == "hot air balloon" and words_of("ambulance", joined) == "ambulance"
    assert words_of("birthday-cake-2", joined) == "birthday cake" and words_of("2", joined) == "2"


def test_one_thing_is_one_in_all_sets() -> None:
    assert concept_of("woman farmer") == concept_of("farmer") == concept_of("man farmer")
    assert concept_of("face with tears of joy") == concept_of("joy tears face")
    assert concept_of("woman") == "woman" != concept_of("man"), "who is left where there is nothing else"


def test_held_out_things_hang_on_their_names_alone() -> None:
    words = [f"thing {word}" for word in ("apple", "pear", "plum", "fig", "nut", "oak", "elm", "ash", "yew", "fir")] * 3
    held_out = held_out_concepts(words)
    assert 0 < len(held_out) < 10
    assert held_out_concepts([*reversed(words), "another name"]) - {concept_of("another name")} == held_out


def test_what_can_be_drawn_is_called_by_words_that_training_reads() -> None:
    held_out = {concept_of("red car"), concept_of("green zebra")}
    words = ["red car", "green zebra", "red apple", "car park", "green tea"]
    assert drawable(held_out, words) == {concept_of("red car")}, "nobody is told what a zebra is"
