"""What is not finite: cut before the forward it changes nothing; after it, it is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.signals import Predictions
from memsieve.filtering.types import Action, Decision, Visit, finite_rows


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.GroupNorm(2, 8), torch.nn.SiLU(), torch.nn.Conv2d(8, 4, 3)
    )


def step(latents: torch.Tensor, decision: Decision) -> dict[str, torch.Tensor]:
    """The gradients of one step, by name."""
    model = network()
    losses = functional.mse_loss(model(latents), torch.ones(len(latents), 4, 6, 6), reduction="none")
    decision.reduce(losses).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}  # type: ignore[misc]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_leaves_no_gradient_where_its_row_is_cut(bad: float) -> None:
    good = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    latents = torch.cat([good, torch.full((1, 4, 8, 8), bad)])
    latents[3, 0] = 0.5  # not all of it
    states = torch.zeros(4, 6, 16)
    valid, (cut, states) = finite_rows(latents, states)
    assert valid == [True, True, True, False] and bool((cut[3] == 0).all()) and torch.equal(cut[:3], good)
    sieve = MemorizationFilter(signals=["magnitude"], rule="z_score", threshold=4.0)
    measured = sieve.measure(Predictions(cut, cut + 1, cut), torch.full((4,), 10))
    decision = sieve.decide([Visit(key) for key in "abcd"], measured, valid)
    assert decision.weights.tolist() == [1.0, 1.0, 1.0, 0.0] and decision.verdicts[3].action is Action.FAILED
    found, wanted = step(cut, decision), step(good, Decision(torch.ones(3), []))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient * 4, wanted[name] * 3, msg=name)  # reduce divides by the batch's size
    sieve.end_window()
    assert len(sieve.calibrator) == 3, "what stands in for it is not what visits are compared with"


def test_a_row_is_cut_where_any_input_is_not_finite() -> None:
    latents, states = torch.ones(3, 4, 8, 8), torch.ones(3, 6, 16)
    states[1, 2, 3] = float("nan")
    latents[2, 0, 0, 0] = float("-inf")
    valid, (cut_latents, cut_states) = finite_rows(latents, states)
    assert valid == [True, False, False]
    for cut in (cut_latents, cut_states):
        assert bool((cut[0] == 1).all()) and bool((cut[1:] == 0).all())


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_loss_that_would_poison_the_gradient_is_refused_by_name(weight: float) -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    latents[1, 0, 0, 0] = float("nan")
    decision = Decision(torch.tensor([1.0, weight]), [], keys=["good.png", "bad.png"])
    with pytest.raises(FloatingPointError, match=r"1 sample\(s\) is not finite: 'bad\.png'; .*finite_rows\(latents\)"):
        step(latents, decision)


def test_without_gradients_a_dropped_loss_that_is_not_finite_does_not_enter() -> None:
    losses: Any = torch.tensor([[3.0, 5.0], [float("nan"), 1.0]])
    assert float(Decision(torch.tensor([1.0, 0.0]), []).reduce(losses)) == 2.0
    with pytest.raises(FloatingPointError, match="row 1"):
        Decision(torch.tensor([1.0, 0.5]), []).reduce(losses)
