"""Draws are functions of what they belong to, and of nothing else."""

from __future__ import annotations

import numpy as np
import torch

from memsieve.filtering.data.draws import normal_like, row_generator, visit_draw


def test_visit_draws_are_uniform_in_t() -> None:
    """Every single visit is uniform over t, and visits of one pair are not the same."""
    draws = [visit_draw(1, f"{i:032x}", 2, shape=(1, 2, 2), num_train_timesteps=1000, strata=4) for i in range(2000)]
    counts, _ = np.histogram([draw.timestep for draw in draws], bins=10, range=(0, 1000))
    assert counts.min() > 140 and counts.max() < 260
    noise = torch.stack([draw.noise for draw in draws])
    assert abs(float(noise.mean())) < 0.05 and abs(float(noise.std()) - 1) < 0.05
    first, second = (visit_draw(1, "a", v, shape=(4, 8, 8), num_train_timesteps=1000, strata=4) for v in (0, 1))
    assert not torch.equal(first.noise, second.noise) and not torch.equal(first.noise, first.vae_noise)


class TestDraws:
    def test_same_key_same_draws_and_different_key_different_draws(self) -> None:
        def draw(*parts: int | str, seed: int = 0, purpose: str = "noise") -> float:
            return float(row_generator(seed, *parts, purpose=purpose).random())

        keys = [draw(1, 23), draw(12, 3), draw("1", 23), draw(1, 23, seed=1), draw(1, 23, purpose="time"), draw(123)]
        assert len(set(keys)) == len(keys)
        assert draw(1, 23) == draw(1, 23)

    def test_pinned_value(self) -> None:
        # A change here changes every run's data order and noise: old ledgers could no longer be reproduced.
        assert row_generator(0, 1, 2, 3, purpose="noise").integers(0, 2**32, 2).tolist() == [1092048689, 1328473481]

    def test_normal_like(self) -> None:
        tensor = normal_like(row_generator(0, purpose="noise"), (4, 64, 64))
        assert (tensor.shape, tensor.dtype) == ((4, 64, 64), torch.float32)
        assert abs(float(tensor.mean())) < 0.03
        assert abs(float(tensor.std()) - 1) < 0.03
        assert torch.equal(tensor, normal_like(row_generator(0, purpose="noise"), torch.Size((4, 64, 64))))
        assert normal_like(row_generator(0, purpose="noise"), ()).shape == ()
