"""What a model is asked at validation: the same at every call, of each pair and prompt by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from memsieve.filtering.data.rows import Row
from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.train.probes import held_out_loss, image_grid, probe_magnitude, validation_images
from tests.tiny_models import tiny_family


@pytest.fixture(scope="module")
def denoiser() -> Any:
    return denoiser_of(tiny_family("sd"))


def row(number: int) -> Row:
    pixels = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(number)) * 2 - 1
    return Row(f"k{number}", "s.tar", number, f"g{number}", f"cat {number}", pixels, 0, 0, number)


def loss(denoiser: Any, *numbers: int, **more: int) -> float:
    options = {"seed": 3, "resolution": 16, "draws": 2, "batch_size": 16, **more}
    return held_out_loss(denoiser, denoiser.model, [row(number) for number in numbers], **options)


def test_the_held_out_loss_is_a_mean_over_pairs_that_are_each_drawn_by_their_own_name(denoiser: Any) -> None:
    denoiser.model.train()
    whole = loss(denoiser, 1, 2, 3)
    assert denoiser.model.training, "training goes on"
    assert loss(denoiser, 1, 2, 3) == whole
    assert loss(denoiser, 3, 1, 2, batch_size=4) == pytest.approx(whole, rel=1e-5)
    alone = [loss(denoiser, number) for number in (1, 2, 3)]
    assert sum(alone) / 3 == pytest.approx(whole, rel=1e-5) and len(set(alone)) == 3
    assert loss(denoiser, 1, 2, 3, seed=4) != whole and loss(denoiser, 1, 2, 3, draws=1) != whole
    assert loss(denoiser, 1, 2, 3, draws=8) < 2 * loss(denoiser, 1, 2, 3, draws=1), "a mean over draws too"
    assert loss(denoiser) == 0.0


def test_the_magnitude_of_a_prompt_is_how_far_it_moves_the_prediction(denoiser: Any) -> None:
    def magnitude(*captions: str, seed: int = 3) -> float:
        return probe_magnitude(denoiser, denoiser.model, list(captions), seed=seed, resolution=16)

    denoiser.model.train()
    assert magnitude("", "") == pytest.approx(0.0, abs=1e-6), "without words the two predictions are one"
    found = magnitude("cat", "dog")
    assert denoiser.model.training and found > 1e-3
    assert magnitude("cat", "dog") == found and magnitude("cat", "dog", seed=4) != found
    first, second = magnitude("cat"), magnitude("", "dog")
    assert found == pytest.approx((first + 2 * second) / 2, rel=1e-3), "a mean over prompts"
    assert abs(magnitude("cat", "cat") - first) > 1e-4 * first, "each on noise of its place"


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image).astype(int) for image in images])


def test_every_prompt_is_drawn_from_a_seed_of_its_place(denoiser: Any) -> None:
    def drawn(*prompts: str, seed: int = 3, guidance_scale: float = 4.0) -> np.ndarray:
        options: dict[str, Any] = {"seed": seed, "steps": 2, "guidance_scale": guidance_scale, "resolution": 16}
        return pixels(validation_images(denoiser, denoiser.model, list(prompts), **options))

    denoiser.model.train()
    both = drawn("cat", "dog")
    assert denoiser.model.training and both.shape == (2, 16, 16, 3)
    assert np.array_equal(both, drawn("cat", "dog"))
    assert np.abs(both[:1] - drawn("cat")).max() <= 1, "whatever stands beside it"
    assert np.abs(both[0] - both[1]).max() > 1 and np.abs(both - drawn("cat", "dog", seed=4)).max() > 1
    twice = drawn("cat", "cat")
    assert np.abs(twice[0] - twice[1]).max() > 1, "the seed is the place's, not the prompt's"


def test_without_guidance_nothing_is_asked_without_the_prompt(denoiser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser, "unconditional", lambda count: pytest.fail("nobody needs it"))
    options: dict[str, Any] = {"seed": 3, "steps": 1, "guidance_scale": 1.0, "resolution": 16}
    (image,) = validation_images(denoiser, denoiser.model, ["cat"], **options)
    assert image.size == (16, 16)


@pytest.mark.parametrize(("count", "size"), [(1, (2, 3)), (2, (4, 3)), (3, (4, 6)), (5, (6, 6)), (7, (6, 9))])
def test_a_grid_is_about_square_read_by_lines_and_white_where_nothing_is(
    tmp_path: Path, count: int, size: tuple[int, int]
) -> None:
    images = [Image.new("RGB", (2, 3), (number, 0, 0)) for number in range(count)]
    path = image_grid(images, tmp_path / "a" / "b" / "grid.png")
    grid = Image.open(path)
    assert grid.size == size
    places = [grid.getpixel((x, y)) for y in range(0, size[1], 3) for x in range(0, size[0], 2)]
    assert places == [(number, 0, 0) for number in range(count)] + [(255, 255, 255)] * (len(places) - count)
    assert Image.open(image_grid(images, tmp_path / "large.png", scale=4)).size == (4 * size[0], 4 * size[1])
