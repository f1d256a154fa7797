"""Drawings in latents: the same each time, as many forwards whatever is drawn; and whose picture they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.inference.copies.recall import (
    GUIDANCE,
    STEPS,
    LatentBank,
    _scheduler,
    draw_latents,
    forwards_per_drawing,
)
from tests.tiny_models import TINY_FAMILIES, side_of


def bank_of(points: list[float], captions: list[str], trained: list[bool] | None = None) -> LatentBank:
    """Latents on a line."""
    latents = torch.tensor(points).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return LatentBank(latents, [f"g{i}" for i in range(len(points))], [[c] for c in captions], trained or [True] * 9)


def at(*points: float) -> torch.Tensor:
    return torch.tensor(points).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_the_margin_is_the_nearest_others_distance_over_the_own() -> None:
    bank = bank_of([0.0, 10.0, 30.0], ["a", "b", "c"], [True] * 3)
    near, far = bank.compare(at(1.0, 8.0), ["a", "a"])
    assert (near.group, near.nearest) == ("g0", "g0") and near.margin == pytest.approx(math.log(9.0 / 1.0))
    assert (far.group, far.nearest) == ("g0", "g1") and far.margin == pytest.approx(math.log(2.0 / 8.0))


def test_a_picture_saved_twice_is_no_other_picture() -> None:
    bank = bank_of([0.0, 0.5, 10.0, 20.0, 30.0], list("abcde"), [True] * 5)
    (found,) = bank.compare(at(1.0), ["a"])
    assert found.margin == pytest.approx(math.log(9.0 / 1.0)), "the twin at 0.5 is nearer, and is the same picture"


def test_of_several_pictures_with_the_caption_the_nearest_is_the_own() -> None:
    bank = bank_of([0.0, 10.0, 30.0], ["dog", "dog", "dog"], [True] * 3)
    (found,) = bank.compare(at(9.0), ["dog"])
    assert found.group == "g1" and found.margin == pytest.approx(math.log(9.0 / 1.0))


def test_a_held_out_caption_is_compared_with_held_out_pictures_of_its_own() -> None:
    bank = bank_of([0.0, 10.0, 30.0], ["a", "a", "b"], [True, False, False])
    assert bank.compare(at(9.0), ["a"], trained=False)[0].group == "g1"
    assert bank.compare(at(9.0), ["a"], trained=True)[0].group == "g0"
    with pytest.raises(ValueError, match="no training picture has the caption 'b'"):
        bank.compare(at(9.0), ["b"])


@pytest.mark.parametrize("family", sorted(TINY_FAMILIES))
def test_every_family_draws_as_many_forwards_and_the_same_each_time(
    family: str, family_folder: Callable[[str], Path]
) -> None:
    denoiser = open_denoiser(str(family_folder(family)), None, torch.float32)
    denoiser.model.eval()
    rows: list[int] = []
    denoiser.model.register_forward_hook(lambda module, args, output: rows.append(len(output[0])))
    side = side_of(family)
    shape = denoiser.latent_shape(side)
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    first, again = (draw_latents(denoiser, denoiser.model, ["a cat", "hat"], noise, resolution=side) for _ in range(2))
    assert first.shape == noise.shape and torch.equal(first, again) and torch.isfinite(first).all()
    assert len(rows) == 2 * STEPS and sum(rows) == 2 * 2 * forwards_per_drawing(denoiser)
    (alone,) = draw_latents(denoiser, denoiser.model, ["hat"], noise[1:], resolution=side)
    assert torch.allclose(alone, first[1], atol=1e-3, rtol=1e-3), "whatever else is drawn beside it"


@pytest.mark.parametrize("family", sorted(TINY_FAMILIES))
def test_what_is_drawn_is_what_the_family_s_pipeline_draws(family: str, family_folder: Callable[[str], Path]) -> None:
    """From the same noise, by the same scheduler: guided as the pipeline guides, in whatever form it is called."""
    denoiser, side = open_denoiser(str(family_folder(family)), None, torch.float32), side_of(family)
    denoiser.model.eval()
    captions = ["a cat", "hat"]
    noise = torch.randn(2, *denoiser.latent_shape(side), generator=torch.Generator().manual_seed(0))
    drawn = denoiser.decode(draw_latents(denoiser, denoiser.model, captions, noise, resolution=side))
    pipe = denoiser.pipeline()
    pipe.register_modules(scheduler=_scheduler(denoiser, STEPS, side))
    uncond = None if denoiser.distilled else denoiser.unconditional(2)
    scale = 1.0 if denoiser.distilled else GUIDANCE  # a distilled network is told 1 as its scale
    given = denoiser.call_arguments(denoiser.conditioning(captions), uncond, scale, noise)
    images = pipe(**given, num_inference_steps=STEPS, height=side, width=side, output_type="pt").images
    assert torch.allclose(images * 2 - 1, drawn, atol=1e-4)
