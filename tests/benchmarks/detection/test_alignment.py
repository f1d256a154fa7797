"""Does an image fit its caption? The encoder in closed form, on pictures whose captions say what they show."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from scipy.stats import hypergeom

from benchmarks.detection import alignment
from benchmarks.detection.alignment import Alignment

COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "black": (-1, -1, -1), "yellow": (1, 1, -1)}
PLACES = {"upper left": (0, 0), "upper right": (0, 16), "lower left": (16, 0), "lower right": (16, 16)}


def drawn(colour: str, place: str, seed: int) -> torch.Tensor:
    """A noisy square on white, [3, 32, 32]."""
    image = torch.ones(3, 32, 32)
    down, right = PLACES[place]
    image[:, down + 2 : down + 14, right + 2 : right + 14] = torch.tensor(COLOURS[colour])[:, None, None].float()
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + 0.1 * noise).clamp(-1, 1)


WHAT = list(product(COLOURS, PLACES))
CAPTIONS = [f"{colour} square, {place}" for colour, place in WHAT]


@pytest.fixture(scope="module")
def aligned() -> Alignment:
    """Fitted on four pictures of each kind; all kinds are strangers to each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "RANK", 12)
        patch.setattr(alignment, "WIDTH", 8)
        images = torch.stack([drawn(*what, seed) for seed in range(4) for what in WHAT])
        return Alignment(images, CAPTIONS * 4, CAPTIONS)


@pytest.fixture(scope="module")
def unseen() -> torch.Tensor:
    return torch.stack([drawn(*what, 100 + number) for number, what in enumerate(WHAT)])


def test_an_unseen_picture_fits_its_own_caption_and_not_that_of_another(
    aligned: Alignment, unseen: torch.Tensor
) -> None:
    assert float(aligned(unseen, CAPTIONS).mean()) > 0.9
    turned = CAPTIONS[7:] + CAPTIONS[:7]  # another colour and another place
    assert float(aligned(unseen, turned).mean()) < 0.25


def test_it_is_the_probability_to_beat_seven_strangers_drawn_at_random(
    aligned: Alignment, unseen: torch.Tensor
) -> None:
    """Seven of those below, of all strangers but its own caption: the hypergeometric distribution says how likely."""
    turned = CAPTIONS[3:] + CAPTIONS[:3]
    seen = torch.nn.functional.normalize((alignment._features(unseen) - aligned.image_mean) @ aligned.image_map, dim=1)
    fits = seen @ aligned.strangers.T
    expected = []
    for row, caption in enumerate(turned):
        own = fits[row, CAPTIONS.index(caption)]
        below = sum(float(fits[row, i]) < float(own) for i, other in enumerate(CAPTIONS) if other != caption)
        expected.append(float(hypergeom.pmf(7, len(CAPTIONS) - 1, below, 7)))
    assert any(0.0 < value < 1.0 for value in expected)
    assert aligned(unseen, turned).tolist() == pytest.approx(expected, abs=1e-6)
