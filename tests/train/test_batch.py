"""From drawn visits to tensors: what is not finite, what is planned, what is added to the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from memsieve.filtering.schedule import WindowPlan
from memsieve.train.batch import BatchPlan, build_batch, build_batches, encode
from memsieve.train.config import RunConfig
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.loop import window_batches
from memsieve.train.set_up import set_up
from memsieve.train.visits import DrawnVisit, draw_visits, plain_samples
from tests.train.conftest import NoModel
from tests.train.test_visits import rows

MakeConfig = Callable[..., RunConfig]
SETTINGS = DrawSettings(seed=5, resolution=8)


def visits(*numbers: int | None, settings: DrawSettings = SETTINGS) -> list[DrawnVisit]:
    return draw_visits(NoModel(), plain_samples(rows(*numbers), settings), settings)


def test_what_is_not_finite_is_named_once_and_counts_as_nothing() -> None:
    """Of the image, and of what the VAE makes of it; padding is neither."""
    read = rows(1, 2, None, 3)
    assert read[0] is not None
    read[0].pixels[0, 0, 0] = float("inf")
    drawn = draw_visits(NoModel(), plain_samples(read, SETTINGS), SETTINGS)
    drawn[3] = replace(drawn[3], vae_noise=torch.full((4, 2, 2), float("nan")))
    batch = build_batch(NoModel(), drawn)
    assert batch.valid == [False, True, False, False]
    assert [visit.key for visit in batch.bad] == ["k1", "k3"] and [v.key for v in batch.visits] == [
        "k1",
        "k2",
        "",
        "k3",
    ]
    for flags in (batch.captioned, batch.readable, batch.usable):
        assert not any(flags[i] for i in (0, 2, 3)) and flags[1] == drawn[1].readable
    assert bool(torch.isfinite(batch.noisy).all()) and not batch.latents[3].any()


def test_a_batch_is_its_visits_stacked_and_noised() -> None:
    drawn = visits(1, 2, 3, settings=replace(SETTINGS, input_perturbation=0.5))
    batch = build_batch(NoModel(), drawn)
    assert batch.timesteps.tolist() == [visit.timestep for visit in drawn] and batch.draws == [-1] * 3
    for i, visit in enumerate(drawn):
        assert torch.equal(batch.noise[i], visit.noise) and torch.equal(batch.latents[i], visit.vae_noise)
        assert visit.perturbation is not None
        assert torch.equal(batch.noisy[i], batch.latents[i] + (visit.noise + visit.perturbation))


def test_what_was_encoded_before_stands_for_images_and_captions() -> None:
    drawn = visits(1, 2)
    encoded = encode(NoModel(), [torch.ones(3, 8, 8)] * 2, ["one", "another"])
    given, own = build_batch(NoModel(), drawn, encoded=encoded), build_batch(NoModel(), drawn)
    lengths = [states.encoder_hidden_states[:, 0, 0].tolist() for states in (given.conditioning, own.conditioning)]
    assert lengths == [[3.0, 7.0], [14.0, 14.0]]


def test_the_parts_of_a_plan_go_to_their_batches() -> None:
    plan = WindowPlan([0, -1, 2, -1], [False, False, True, False], [False, True], 1)
    batches = build_batches(NoModel(), visits(1, 2, 3, 4), plan, 2)
    assert [batch.plan for batch in batches] == [
        BatchPlan([True, False], [False, False], False, 1),
        BatchPlan([True, False], [True, False], True, 1),
    ]
    assert [batch.plan for batch in build_batches(NoModel(), visits(1, 2, 3), None, 2)] == [None, None]


@pytest.mark.parametrize("option", ["noise_offset", "input_perturbation"])
def test_noise_beside_the_noise(make_config: MakeConfig, option: str) -> None:
    """An offset is in the target, a perturbation in the input alone; other draws stay as they were."""
    batches = {}
    for value in (0.0, 0.1):
        session = set_up(make_config(f"{option}-{value}", train={option: value}))
        batches[value] = window_batches(session, next(iter(session.loader)))[0]
    plain, other = batches[0.0], batches[0.1]
    assert torch.equal(plain.timesteps, other.timesteps) and torch.equal(plain.latents, other.latents)
    added = (other.noise - plain.noise) / 0.1
    if option == "noise_offset":
        assert torch.allclose(added, added.mean((2, 3), keepdim=True).expand_as(added), atol=1e-5)
        assert 0.7 < float(added.mean((2, 3)).std()) < 1.4
        seen = other.noise
    else:
        assert not bool(added.any())
        sigma = (1 - session.denoiser.noise_scheduler.alphas_cumprod[other.timesteps]).sqrt().view(-1, 1, 1, 1)
        further = (other.noisy - plain.noisy) / sigma
        assert 0.09 < float(further.std()) < 0.11
        return
    assert torch.allclose(other.noisy, session.denoiser.add_noise(other.latents, seen, other.timesteps))
