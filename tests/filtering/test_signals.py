"""Signals against their formulas, written out."""

from __future__ import annotations

import pytest
import torch

from memsieve.filtering.denoisers.base import EpsilonSpace
from memsieve.filtering.signals import SIGNALS, Predictions, measure, measured_for, required_passes

ALPHAS = torch.linspace(0.99, 0.01, 100)


def predictions() -> Predictions:
    g = torch.Generator().manual_seed(0)
    return Predictions(*(torch.randn(3, 4, 8, 8, generator=g) for _ in range(5)))


def test_formulas() -> None:
    p = predictions()
    assert p.uncond is not None and p.ref_cond is not None and p.ref_uncond is not None
    got = measure(SIGNALS, p)
    for i in range(3):
        delta = (p.cond[i] - p.uncond[i]).flatten()
        own = ((p.noise[i] - p.cond[i]) ** 2).mean()
        reference = ((p.noise[i] - p.ref_cond[i]) ** 2).mean()
        m = delta.square().sum().sqrt()
        m_ref = (p.ref_cond[i] - p.ref_uncond[i]).square().sum().sqrt()
        expected = {
            "magnitude": m,
            "loss": own,
            "loss_gap": ((p.noise[i] - p.uncond[i]) ** 2).mean() - own,
            "cosine": delta @ p.uncond[i].flatten() / m / p.uncond[i].norm(),
            "reference_ratio": 1 - own / reference,
            "magnitude_ratio": m.log() - m_ref.log(),
            "anchored_magnitude": (p.cond[i] - p.ref_uncond[i]).norm() / 256**0.5,
            "drift": (p.cond[i] - p.ref_cond[i]).norm() / 256**0.5,
        }
        for name, value in expected.items():
            assert torch.allclose(got[name][i], value, rtol=1e-5), name


def test_magnitude_is_per_sample_not_per_batch() -> None:
    p = predictions()
    alone = Predictions(p.noise[:1], p.cond[:1], p.uncond[:1] if p.uncond is not None else None)
    assert torch.allclose(measure(["magnitude"], alone)["magnitude"], measure(["magnitude"], p)["magnitude"][:1])


@pytest.mark.parametrize("name", ["anchored_magnitude", "drift"])
def test_signals_against_the_base_hold_for_latents_of_any_size(name: str) -> None:
    small = Predictions(*(torch.full((1, 4, 8, 8), float(v)) for v in (0, 3, 1, 5, 5)))
    large = Predictions(*(torch.full((1, 16, 32, 32), float(v)) for v in (0, 3, 1, 5, 5)))
    assert measure([name], small)[name].item() == measure([name], large)[name].item() == pytest.approx(2.0)


def test_passes_are_the_union_and_named_once() -> None:
    assert required_passes(["loss"]) == set()
    assert required_passes(["magnitude", "loss_gap", "cosine"]) == {"uncond"}
    assert required_passes(["reference_ratio", "magnitude"]) == {"ref_cond", "uncond"}
    assert required_passes(["reference_residual"]) == {"ref_cond"}
    assert required_passes(["reference_residual", "drift"]) == {"ref_cond"}, "drift shares the residual's pass"
    assert required_passes(["anchored_magnitude"]) == {"ref_uncond"}
    with pytest.raises(ValueError, match="unknown signal 'magnitud'; known signals: magnitude.*reference_residual"):
        required_passes(["magnitud"])


def test_a_signal_made_of_others_is_measured_as_those() -> None:
    assert measured_for(["reference_residual", "loss", "magnitude"]) == ("loss", "reference_ratio", "magnitude")
    got, p = measure(["reference_residual"], predictions()), predictions()
    assert list(got) == ["loss", "reference_ratio"]
    assert all(torch.equal(got[name], SIGNALS[name].value(p)) for name in got)


def test_a_missing_pass_is_named() -> None:
    p = predictions()
    with pytest.raises(ValueError, match="needs the 'ref_cond' prediction"):
        measure(["reference_ratio"], Predictions(p.noise, p.cond))


def test_one_network_in_three_parametrisations_has_one_magnitude() -> None:
    """The same denoiser wrapped as epsilon-, v- and x0-prediction, to 1e-4."""
    g = torch.Generator().manual_seed(1)
    x0, noise, eps_c, eps_0 = (torch.randn(5, 4, 8, 8, generator=g, dtype=torch.float64) for _ in range(4))
    t = torch.tensor([1, 20, 50, 80, 98])
    space = EpsilonSpace(ALPHAS, "epsilon")
    alpha, sigma = space.coefficients(t, x0)
    noisy = alpha * x0 + sigma * noise
    expected = (eps_c - eps_0).flatten(1).norm(dim=1)
    for kind in ("epsilon", "v_prediction", "sample"):
        own = EpsilonSpace(ALPHAS, kind)

        def native(eps: torch.Tensor, kind: str = kind) -> torch.Tensor:
            clean = (noisy - sigma * eps) / alpha
            return {"epsilon": eps, "sample": clean, "v_prediction": alpha * eps - sigma * clean}[kind]

        c, u = own.to_epsilon(native(eps_c), noisy, t), own.to_epsilon(native(eps_0), noisy, t)
        got = measure(["magnitude"], Predictions(noise, c, u))["magnitude"]
        assert torch.allclose(got.double(), expected, rtol=1e-4), kind


def test_epsilon_factor() -> None:
    t = torch.tensor([0, 99])
    assert EpsilonSpace(ALPHAS, "epsilon").factor(t).tolist() == [1.0, 1.0]
    assert EpsilonSpace(ALPHAS, "v_prediction").factor(t).tolist() == pytest.approx([0.99**0.5, 0.01**0.5], rel=1e-5)
    with pytest.raises(ValueError, match="prediction_type 'flow' is not known"):
        EpsilonSpace(ALPHAS, "flow")
