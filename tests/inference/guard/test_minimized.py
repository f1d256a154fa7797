"""The guard's minimised images: of the size, the sizes and the magnitude that were asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, PixArtTransformer2DModel

from memsieve.inference.guard.settings import GuardSettings
from memsieve.inference.minimize.settings import MinimizeSettings
from tests.inference.guard.calls import (
    MEASURED,
    SIZES,
    call_of,
    first_step,
    guard,
    guidance,
    seeded,
    some_slow,
)
from tests.tiny_models import RECENT, tiny_family

CALLS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in MEASURED),
    ("sdxl", SIZES),
    ("sdxl", {**SIZES, "height": 8, "width": 24}),
    ("sdxl", {"original_size": (900, 24)}),
    ("sd", {"guidance_rescale": 0.5, "height": 24}),
    ("sdxl", {"clip_skip": 1}),
    ("sd3", {"height": 24, "max_sequence_length": 100}),
    ("flux_guided", {"width": 24, "max_sequence_length": 64}),
]


TOLD = [(name, told, images) for name, told in CALLS for images in (1, 2)]


TOLD_FAST = [(name, told, images) for name, told, images in TOLD if images == (2 if told else 1) and name not in RECENT]


@pytest.mark.parametrize(("name", "told", "images"), some_slow(TOLD, TOLD_FAST))
def test_the_minimised_magnitude_is_that_of_the_drawn_image(name: str, told: dict[str, Any], images: int) -> None:
    """What the report says was reached is what the network does in the image that is given back."""
    pipe = tiny_family(name)
    prompts = ["cat dog", "b"][:images]
    options = {**call_of(name), **guidance(pipe, images), **told, "num_inference_steps": 2}
    # A list of its own each time: Z-Image's pipeline writes its template into the one that it is given.
    draw = lambda guarded: guarded(prompt=list(prompts), generator=[seeded(i) for i in range(images)], **options)  # noqa: E731
    started = guard(pipe)
    assert first_step(pipe, lambda: draw(started), 2) == pytest.approx(started.report.magnitudes[0], rel=1e-5)
    least = min(started.report.magnitudes[0])
    how = MinimizeSettings(iterations=4, method="closest")
    settings = GuardSettings(target=0.95 * least, minimize=how)
    guarded = guard(pipe, "minimize", threshold=0.999 * least, settings=settings)
    seen = first_step(pipe, lambda: draw(guarded), 2)
    assert guarded.report.flagged == [True] * images
    assert guarded.report.minimized == pytest.approx(seen, rel=1e-4)
    assert min(s - m for s, m in zip(started.report.magnitudes[0], seen, strict=True)) > 1e-3, "it did something"


def test_pixart_keeps_the_size_that_its_pipeline_bins() -> None:
    """Minimising does not turn use_resolution_binning off: the image comes as large as it was asked for."""
    pipe = tiny_family("pixart")
    torch.manual_seed(0)
    config = {name: value for name, value in pipe.transformer.config.items() if name != "_use_default_values"}
    vae = AutoencoderKL(
        block_out_channels=(4,) * 4, norm_num_groups=2, latent_channels=4, sample_size=256,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    transformer = PixArtTransformer2DModel.from_config({**config, "sample_size": 32})
    pipe = type(pipe)(**{**pipe.components, "vae": vae.eval(), "transformer": transformer.eval()})
    pipe.set_progress_bar_config(disable=True)
    shapes: list[torch.Size] = []
    handle = transformer.register_forward_hook(lambda module, args, output: shapes.append(output[0].shape[-2:]))
    options: dict[str, Any] = {"num_inference_steps": 2, "height": 64, "width": 128, "output_type": "pt"}
    plain = pipe("cat", guidance_scale=3.0, generator=seeded(), **options).images
    settings = GuardSettings(target=1e-6, minimize=MinimizeSettings(iterations=1))
    guarded = guard(pipe, "minimize", threshold=1e-6, settings=settings)
    drawn = guarded("cat", guidance_scale=3.0, generator=seeded(), **options).images
    handle.remove()
    assert drawn.shape == plain.shape == (1, 3, 64, 128) and len(set(shapes)) == 1, "one size all the way"
    assert guarded.report.flagged == [True]


@pytest.mark.parametrize("name", some_slow([(name,) for name in MEASURED], [("sd",), ("sdxl",)]))
def test_minimising_works_under_inference_mode(name: str) -> None:
    pipe = tiny_family(name)
    started = guard(pipe)
    options = {**call_of(name), **guidance(pipe), "num_inference_steps": 2}
    started(prompt="cat dog", generator=seeded(), **options)
    (least,) = started.report.magnitudes[0]
    results = []
    for inside in (False, True):
        with torch.inference_mode(inside):
            settings = GuardSettings(target=0.9 * least, minimize=MinimizeSettings(iterations=3))
            guarded = guard(pipe, "minimize", threshold=0.99 * least, settings=settings)
            images = guarded(prompt="cat dog", generator=seeded(), **options).images
            again = guarded(prompt="cat dog", generator=seeded(), **options).images
        assert torch.equal(images, again)
        results.append((images, guarded.report.minimized))
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5) and results[0][1][0] < least
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-4, atol=1e-4)
