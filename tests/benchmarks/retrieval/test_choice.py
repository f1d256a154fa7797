"""Which of twenty captions: who is asked about, and what is answered."""

from __future__ import annotations

import pytest
import torch

from benchmarks.retrieval.choice import CANDIDATES, candidates_of, chosen
from benchmarks.retrieval.encoder import SIDE, Encoder, train_encoder

COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "black": (-1, -1, -1)}
SIDES = ("left", "right", "top", "bottom", "middle")


def picture(colour: str, side: str) -> torch.Tensor:
    pixels, half = torch.ones(3, SIDE, SIDE), SIDE // 2
    places = {"left": (slice(None), slice(0, half)), "right": (slice(None), slice(half, None)),
              "top": (slice(0, half), slice(None)), "bottom": (slice(half, None), slice(None)),
              "middle": (slice(8, 24), slice(8, 24))}  # fmt: skip
    rows, columns = places[side]
    pixels[:, rows, columns] = torch.tensor(COLOURS[colour], dtype=torch.float32)[:, None, None]
    return pixels


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    kinds = [(colour, side) for colour in COLOURS for side in SIDES] * 4
    images = torch.stack([picture(*kind) for kind in kinds])
    return train_encoder(images, [f"{side}, {colour}" for colour, side in kinds], epochs=30, batch=40)


def test_twenty_captions_of_twenty_things_the_own_one_first() -> None:
    things = [f"thing {i % 40}" for i in range(80)]
    for i, among in enumerate(candidates_of(things)):
        assert len(among) == CANDIDATES and among[0] == i
        assert len({things[j] for j in among}) == CANDIDATES
    assert candidates_of(things, 1) != candidates_of(things, 2)


def test_too_few_things_are_refused() -> None:
    with pytest.raises(ValueError, match="20 captions of as many things are compared, and there are 19"):
        candidates_of([f"thing {i % 19}" for i in range(60)])


def test_a_trained_encoder_finds_the_right_caption_and_an_exchange_is_seen(encoder: Encoder) -> None:
    kinds = [(colour, side) for colour in COLOURS for side in SIDES]
    captions = [f"{side}, {colour}" for colour, side in kinds]
    images, among = torch.stack([picture(*kind) for kind in kinds]), candidates_of(captions)
    own = chosen([encoder], images, captions, among)
    other = chosen([encoder], images.roll(7, 0), captions, among)
    assert own.dtype == torch.bool and own.shape == (20,)
    assert own.float().mean() > other.float().mean() + 0.3


def test_scores_of_several_encoders_are_added_up(encoder: Encoder) -> None:
    captions = [f"{side}, {colour}" for colour in COLOURS for side in SIDES]
    images = torch.stack([picture(colour, side) for colour in COLOURS for side in SIDES])
    among = candidates_of(captions)
    blind = Encoder()
    with torch.no_grad():  # so that it says the same of all captions
        for weight in blind.text.parameters():
            weight.zero_()
        blind.words.weight.fill_(1.0)
    assert torch.equal(chosen([encoder, blind], images, captions, among), chosen([encoder], images, captions, among))
