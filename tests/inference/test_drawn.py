"""Drawing along a trajectory of our own: the pipeline's images where nothing is changed, and others where it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memsieve.inference.drawn import draw_along
from memsieve.inference.generate import sampling_scheduler
from memsieve.inference.opened import open_model
from tests.inference.tuned import tuned_family
from tests.tiny_models import GUIDED, recent_slow, side_of, tiny_family


def pipelines_own(model: Any, noise: torch.Tensor, side: int) -> torch.Tensor:
    """What the family's own pipeline draws from the same noise, guided by 3."""
    pipe, denoiser, count = model.pipe, model.denoiser, len(noise)
    cond, uncond = model.encode(["cat dog"]).expand(count), model.unconditional(count)
    pipe.scheduler = sampling_scheduler(pipe, "auto")
    call = denoiser.call_arguments(cond, uncond, 3.0, noise)
    drawn = pipe(**call, num_inference_steps=4, height=side, width=side, output_type="pt").images
    return drawn * 2 - 1


@pytest.mark.parametrize("name", recent_slow(GUIDED))
def test_without_a_change_the_images_are_the_pipelines(name: str) -> None:
    model, side = open_model(tiny_family(name)), side_of(name)
    noise = model.noise(["cat dog"] * 2, range(2), 0, side)
    told = model.encode(["cat dog"]).expand(2), model.unconditional(2)
    drawn = draw_along(model, noise, told, steps=4, guidance_scale=3.0)
    assert drawn.shape == (2, 3, side, side) and not torch.equal(drawn[0], drawn[1])
    assert torch.allclose(drawn, pipelines_own(model, noise, side), atol=5e-3)


def test_what_the_sampler_follows_may_be_the_bases() -> None:
    """Then the images are the base's, and the unconditional branch is not computed where nobody asks for it."""
    pipe, base = tuned_family("sd")
    model, before = open_model(pipe, base=base), open_model(base)
    noise = model.noise(["cat dog"] * 2, range(2), 0)
    against = model.against(["cat dog"] * 2, ("drift",))
    rows: list[int] = []
    handle = pipe.unet.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    drawn = draw_along(
        model, noise, (model.encode(["cat dog"]).expand(2), None), steps=4, against=against,
        combine=lambda step: step.other("drift"),
    )  # fmt: skip
    handle.remove()
    theirs = draw_along(
        before, noise, (before.encode(["cat dog"]).expand(2), None), steps=4, combine=lambda step: step.cond
    )
    assert torch.allclose(drawn, theirs, atol=1e-4) and rows == [2] * 4
