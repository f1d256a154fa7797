"""The excess of own pictures: nothing where nothing is copied, all where everything is, and families count once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.copying.excess import excess, own_rates
from memsieve.inference.copies.similarity import build_similarity

PIXELS = build_similarity("pixel_l2")


def pictures(count: int, seed: int, side: int = 8) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def near(images: torch.Tensor, copies: int, noise: float = 0.05, seed: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = images[:, None] + noise * torch.randn((len(images), copies, *images.shape[1:]), generator=generator)
    return made.clamp(-1, 1)


def test_who_copies_is_nearest_to_the_own_picture_and_who_does_not_is_so_by_chance() -> None:
    known = pictures(40, 1)
    families = [picture[None] for picture in known]
    assert own_rates(PIXELS, near(known[:10], 4), range(10), families, gallery=20).tolist() == [1.0] * 10
    strangers = near(pictures(200, 2), 1)
    chance = own_rates(PIXELS, strangers, [i % 40 for i in range(200)], families, gallery=4)
    assert 0.12 < chance.mean() < 0.4, "one of four"


def test_a_family_counts_as_one_picture_and_any_of_its_members_is_its_own() -> None:
    known = pictures(12, 3)
    family = torch.cat([known[:1], known[5:9]])  # one picture under five files
    families = [family, *[picture[None] for picture in known[1:5]], *[picture[None] for picture in known[9:]]]
    drawn = near(known[7:8], 3)  # looks like one of them
    assert own_rates(PIXELS, drawn, [0], families, gallery=len(families)).tolist() == [1.0]


def test_galleries_have_one_size_and_the_own_picture_is_always_there() -> None:
    known = pictures(30, 4)
    families = [picture[None] for picture in known]
    drawn = near(pictures(60, 5), 2)
    own = [i % 30 for i in range(60)]
    small, large = (own_rates(PIXELS, drawn, own, families, gallery=size).mean() for size in (3, 30))
    assert small > large, "the larger the gallery, the rarer by chance: rates of two sizes are not comparable"
    with pytest.raises(ValueError, match="a gallery of 31 needs as many families, and there are 30"):
        own_rates(PIXELS, drawn, own, families, gallery=31)
    assert np.array_equal(
        own_rates(PIXELS, drawn, own, families, 10, seed=1), own_rates(PIXELS, drawn, own, families, 10, seed=1)
    )


def test_an_excess_is_over_held_out_pairs_with_an_interval_over_pairs() -> None:
    trained, held_out = np.array([1.0, 1.0, 0.75, 0.5] * 6), np.array([0.25, 0.0, 0.5, 0.25] * 6)
    found = excess(trained, held_out)
    assert found.difference == pytest.approx(trained.mean() - held_out.mean()) == pytest.approx(0.5625)
    error = (trained.var(ddof=1) / 24 + held_out.var(ddof=1) / 24) ** 0.5
    assert found.low == pytest.approx(0.5625 - 1.96 * error, abs=0.02)
    assert found.high == pytest.approx(0.5625 + 1.96 * error, abs=0.02)
    assert found.smallest == pytest.approx(2.8 * error, rel=0.1)
    nothing = excess(held_out, held_out.copy())
    assert nothing.low < 0.0 < nothing.high


def test_few_pairs_that_agree_prove_little() -> None:
    few, many = (excess(np.zeros(n), np.zeros(n)) for n in (4, 100))
    assert few.smallest > 0.4 > many.smallest > 0.0
