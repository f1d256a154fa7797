"""What a sampler may follow between the base and the finished model."""

from __future__ import annotations

import pytest
import torch

from benchmarks.mitigation.mixes import (
    Levels,
    base_first,
    by_drift,
    by_region,
    drift_of,
    levels_of,
    local_drift,
    mixed,
    of_base,
    of_model,
)
from memsieve.inference.opened import open_model
from memsieve.inference.step import Step
from tests.inference.tuned import tuned_family

SCALE = 3.0


def step_of(index: int = 0, seed: int = 0) -> Step:
    generator = torch.Generator().manual_seed(seed)
    cond, uncond, base_cond, base_uncond = (torch.randn(3, 4, 6, 6, generator=generator) for _ in range(4))
    return Step(index, torch.tensor(1), cond, cond, uncond, base_cond, base_uncond)


def test_a_steady_mix_lies_between_both_guided_predictions() -> None:
    step = step_of()
    own, base = of_model(SCALE)(step), of_base(SCALE)(step)
    assert torch.allclose(mixed(1.0, SCALE)(step), own, atol=1e-5)
    assert torch.allclose(mixed(0.0, SCALE)(step), base, atol=1e-5)
    assert torch.allclose(mixed(0.25, SCALE)(step), 0.75 * base + 0.25 * own, atol=1e-5)
    assert torch.allclose(base, step.base_uncond + SCALE * (step.base_cond - step.base_uncond), atol=1e-5)


def test_the_base_draws_the_first_steps() -> None:
    follow = base_first(2, SCALE)
    for index in range(4):
        step = step_of(index)
        expected = of_base(SCALE)(step) if index < 2 else of_model(SCALE)(step)
        assert torch.equal(follow(step), expected)


def test_no_image_lies_further_from_the_base_than_the_level() -> None:
    """By the conditional predictions, guidance 1; whoever lies nearer is left alone."""
    step = step_of(1)
    low, middle, high = sorted(drift_of(step).tolist())
    followed = by_drift(Levels([0.0, middle], []), 1.0)(step)
    now = (followed - step.base_cond).flatten(1).norm(dim=1) / followed[0].numel() ** 0.5
    assert sorted(now.tolist()) == pytest.approx([low, middle, middle], rel=1e-4) and high > middle


def test_a_region_is_held_back_where_it_stands() -> None:
    step = step_of()
    assert step.base_cond is not None
    step.cond = step.base_cond.clone()
    step.cond[:, :, :2, :2] += 5.0
    level = 0.5
    followed = by_region(Levels([], [level]), 1.0)(step)
    far = local_drift(step) > level
    assert far[:, :, :2, :2].all() and not far[:, :, 4:, 4:].any()
    same = torch.isclose(followed, step.cond, atol=1e-5).all(1, keepdim=True)
    assert torch.equal(same, ~(far & ((step.cond - step.base_cond).abs().amax(1, keepdim=True) > 0)))


def test_levels_are_those_of_ordinary_prompts_at_each_step() -> None:
    pipe, base = tuned_family("sd")
    model = open_model(pipe, base=base)
    prompts = ["a", "b c", "red dog"]
    found = levels_of(model, prompts, SCALE, steps=3, batch=2)
    noise = model.noise(prompts, [0] * 3, 0)
    steps = model.trajectory(
        noise, model.encode(prompts), model.unconditional(3), steps=3, schedule_steps=3, guidance_scale=SCALE,
        against=model.against(prompts, ("drift",)),
    )  # fmt: skip
    for step in steps:
        middle = float(model.measured(step, "drift", "native").median())
        assert found.whole[step.index] == pytest.approx(middle, rel=1e-3)
        assert found.local[step.index] > found.whole[step.index]
