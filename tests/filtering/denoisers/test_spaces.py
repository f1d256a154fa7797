"""Noise, target and epsilon of each way of noising."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.filtering.denoisers.spaces import RectifiedFlow
from memsieve.filtering.denoisers.stable_diffusion import StableDiffusionDenoiser
from tests.tiny_models import tiny_family

PROMPTS = ["cat dog", "red hat on a mat"]


class FlowOnUNet(StableDiffusionDenoiser):
    """A flow model in the shape of Stable Diffusion, so that one network can be all four parametrisations."""

    space_class = RectifiedFlow


class Wrapped(torch.nn.Module):
    """The same noise estimate, given out as another prediction of the same (noisy, t)."""

    def __init__(self, network: torch.nn.Module, kind: str, alphas: torch.Tensor) -> None:
        super().__init__()
        self.network, self.kind, self.alphas = network, kind, alphas
        self.config = network.config

    def forward(self, noisy: torch.Tensor, t: torch.Tensor, states: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        epsilon = self.network(noisy, t, states).sample
        if self.kind == "flow":
            s = (t / 1000).view(-1, 1, 1, 1)
            return ((epsilon - noisy) / (1 - s),)
        alpha = self.alphas[t.long()].sqrt().view(-1, 1, 1, 1)
        sigma = (1 - alpha**2).sqrt()
        if self.kind == "v_prediction":
            return ((epsilon - sigma * noisy) / alpha,)
        return ((noisy - sigma * epsilon) / alpha,) if self.kind == "sample" else (epsilon,)


def magnitude(denoiser: Any, noisy: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In epsilon space, by converting both predictions, and by scaling their difference."""
    states = denoiser.conditioning(PROMPTS), denoiser.unconditional(2)
    with torch.no_grad():
        cond, uncond = (denoiser.predict(denoiser.model, noisy, t, s) for s in states)
    converted = [denoiser.to_epsilon(p, noisy, t) for p in (cond, uncond)]
    native = (cond - uncond).flatten(1).norm(dim=1)
    return (converted[0] - converted[1]).flatten(1).norm(dim=1), native * denoiser.epsilon_factor(t).float()


@pytest.mark.parametrize("t", [60.0, 400.0, 900.0])
def test_one_network_in_four_parametrisations_has_one_magnitude(t: float) -> None:
    pipe = tiny_family("sd")
    alphas = pipe.scheduler.alphas_cumprod
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {}
    for kind in ("epsilon", "v_prediction", "sample", "flow"):
        other = tiny_family("sd", **({} if kind == "flow" else {"prediction_type": kind}))
        if kind == "flow":
            other.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        denoiser = (FlowOnUNet if kind == "flow" else StableDiffusionDenoiser).from_pipeline(other)
        denoiser.model = Wrapped(other.unet, kind, alphas)
        assert denoiser.prediction_type == kind
        times = torch.full((2,), t) if kind == "flow" else torch.full((2,), int(t))
        found[kind] = magnitude(denoiser, noisy, times)
    reference = found["epsilon"][0]
    assert reference.min() > 0.05, "a magnitude of zero would prove nothing"
    for kind, values in found.items():
        for value in values:
            assert torch.allclose(value, reference, rtol=1e-4), kind


def test_flow_at_its_start_says_nothing_in_epsilon_space() -> None:
    denoiser = denoiser_of(tiny_family("sd3"))
    t = denoiser.timesteps_at(torch.arange(1000))
    assert float(t[-1]) == 1000.0 and (t[1:] > t[:-1]).all(), "noise grows with the position, up to s = 1"
    factor = denoiser.epsilon_factor(t)
    assert float(factor[-1]) == 0.0 and torch.allclose(factor, 1 - t.double() / 1000)
    noise, x_0 = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    some = denoiser.timesteps_at(torch.tensor([10, 700]))
    noisy = denoiser.add_noise(x_0, noise, some)
    perfect = denoiser.target(x_0, noise, some)
    assert torch.allclose(denoiser.to_epsilon(perfect, noisy, some), noise, atol=1e-5)


def test_timesteps_of_flow_are_the_schedulers_shifted_ones() -> None:
    space = RectifiedFlow(dict(FlowMatchEulerDiscreteScheduler(shift=3.0).config))
    t = space.timesteps_at(torch.arange(1000))
    uniform = torch.arange(1, 1001) / 1000
    assert torch.allclose(t / 1000, 3 * uniform / (1 + 2 * uniform), atol=1e-6)
    plain = space.timesteps_at(torch.randint(0, 1000, (4000,), generator=torch.Generator().manual_seed(0)))
    space.draw_logit_normal(0.0, 1.0)
    drawn = space.timesteps_at(torch.randint(0, 1000, (4000,), generator=torch.Generator().manual_seed(0)))
    from diffusers.training_utils import compute_density_for_timestep_sampling

    u = compute_density_for_timestep_sampling(
        "logit_normal", 4000, 0.0, 1.0, generator=torch.Generator().manual_seed(1)
    )
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0).timesteps[(u * 1000).long()]
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert float(drawn.quantile(q)) == pytest.approx(float(theirs.quantile(q)), abs=25.0)
    assert abs(float(plain.quantile(0.05)) - float(theirs.quantile(0.05))) > 60, "uniform is another density"
    levels = space.timesteps_at(torch.arange(1000))
    assert (levels[1:] >= levels[:-1]).all() and float(levels[-1]) <= 1000
