"""What a drawing shows, by an encoder that is trained once and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.copying.learned import EncoderSimilarity, encoder_at, recognised
from benchmarks.retrieval.encoder import SIDE, Encoder, train_encoder

COLOURS = {"red": (1.0, -1.0, -1.0), "green": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0), "black": (-1.0, -1.0, -1.0)}
SHAPES = [(left, top) for left in (2, 12, 20) for top in (2, 20)]
THINGS = [(colour, place) for colour in COLOURS for place in range(len(SHAPES))]


def picture(colour: str, place: int) -> torch.Tensor:
    pixels, (left, top) = torch.ones(3, SIDE, SIDE), SHAPES[place]
    pixels[:, top : top + 10, left : left + 10] = torch.tensor(COLOURS[colour])[:, None, None]
    return pixels


CAPTIONS = [f"place{place} here, {colour}" for colour, place in THINGS]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return train_encoder(torch.stack([picture(*thing) for thing in THINGS] * 4), CAPTIONS * 4, epochs=30, batch=48)


def test_what_shows_its_caption_is_recognised_more_often_than_what_shows_another(encoder: Encoder) -> None:
    drawn = torch.stack([picture(*thing) for thing in THINGS])
    pairs = torch.stack([drawn, drawn.roll(5, 0)], dim=1)  # the second drawing of each shows another thing
    both = recognised(encoder, pairs, CAPTIONS, CAPTIONS, seed=0)
    own = recognised(encoder, pairs[:, :1], CAPTIONS, CAPTIONS, seed=0)
    other = recognised(encoder, pairs[:, 1:], CAPTIONS, CAPTIONS, seed=0)
    assert len(both) == 24 and all(value in (0.0, 0.5, 1.0) for value in both)
    assert both == [(a + b) / 2 for a, b in zip(own, other, strict=True)]
    assert sum(own) > sum(other) + 8


def test_pictures_are_as_far_apart_as_what_they_show(encoder: Encoder) -> None:
    similarity = EncoderSimilarity(encoder)
    known = similarity.embed(torch.stack([picture(*thing) for thing in THINGS]))
    distances = similarity.distance(known, known)
    assert distances.shape == (24, 24) and torch.allclose(distances.diagonal(), torch.zeros(24), atol=1e-5)
    assert torch.equal(distances.argmin(1), torch.arange(24))


def test_an_encoder_is_trained_once_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kept" / "encoder.safetensors"
    first = encoder_at(file, limit=130, epochs=1)
    monkeypatch.setattr("benchmarks.copying.learned.train_encoder", lambda *_, **__: pytest.fail("trained again"))
    again = encoder_at(file, limit=130, epochs=1)
    images = torch.rand(2, 3, SIDE, SIDE)
    assert torch.equal(first.embed_images(images), again.embed_images(images)) and not again.training
