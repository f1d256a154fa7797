"""Names, verdicts and decisions: what a decision divides by, and what is done about values that are not finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.signals import Predictions
from memsieve.filtering.types import (
    KEPT_FLOOR,
    NAME_BYTES,
    Action,
    Decision,
    Divisor,
    Measurement,
    Reason,
    Verdict,
    Visit,
    finite_rows,
    group_name,
)


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


def test_a_refusal_names_the_first_eight_samples() -> None:
    keys = [f"{i}.png" for i in range(12)]
    with pytest.raises(FloatingPointError) as refused:
        Decision(torch.ones(12), [], keys=keys).reduce(torch.full((12,), math.nan))
    said = str(refused.value)
    assert said.startswith("the loss of 12 sample(s) is not finite: '0.png', ") and "'7.png';" in said


@pytest.mark.parametrize(("divides_by", "expected"), [("eligible", (2.0 + 0.5 * 4.0) / 4), ("kept", (2.0 + 2.0) / 1.5)])
def test_the_sum_is_divided_by_all_samples_or_by_the_weights(divides_by: Divisor, expected: float) -> None:
    decision = Decision(torch.tensor([1.0, 0.5, 0.0, 0.0]), [], divides_by)
    losses = torch.tensor([2.0, 4.0, 100.0, 7.0])
    assert float(decision.reduce(losses)) == pytest.approx(expected)
    spread = torch.stack([losses - 1.0, losses + 1.0], dim=1)[:, :, None]
    assert float(decision.reduce(spread)) == pytest.approx(expected), "of each sample, the mean over what it holds"


def test_a_dropped_sample_takes_gradient_from_nobody_but_for_the_papers_mean() -> None:
    gradients: list[tuple[Divisor, list[float]]] = [("eligible", [0.5, 0.0]), ("kept", [1.0, 0.0])]
    for divides_by, gradient in gradients:
        losses = torch.tensor([3.0, 5.0], requires_grad=True)
        Decision(torch.tensor([1.0, 0.0]), [], divides_by).reduce(losses).backward()
        assert losses.grad is not None and losses.grad.tolist() == gradient


@pytest.mark.parametrize("divides_by", ["eligible", "kept"])
def test_a_batch_in_which_all_is_dropped_comes_to_nothing(divides_by: Divisor) -> None:
    losses = torch.tensor([3.0, 5.0], requires_grad=True)
    reduced = Decision(torch.zeros(2), [], divides_by).reduce(losses)
    reduced.backward()
    assert reduced.item() == 0.0 and losses.grad is not None and losses.grad.tolist() == [0.0, 0.0]


def test_the_smallest_weight_counts_whole_where_it_is_alone() -> None:
    losses = torch.tensor([3.0, 5.0])
    assert float(Decision(torch.tensor([0.0, KEPT_FLOOR]), [], "kept").reduce(losses)) == pytest.approx(5.0)


def test_a_name_that_is_too_long_to_travel_is_hashed_by_its_bytes() -> None:
    assert group_name("x" * NAME_BYTES) == "x" * NAME_BYTES and group_name("ü" * 32) == "ü" * 32
    long = [group_name("x" * 65), group_name("ü" * 33), group_name("x" * 66)]
    assert all(len(name.encode()) <= NAME_BYTES for name in long) and len(set(long)) == 3
    assert long[0] == group_name("x" * 65) and group_name(long[0]) == long[0]


def test_evidence_adds_up_under_the_group_or_else_the_key() -> None:
    assert Visit("key", group="g").identity == "g" and Visit("key").identity == "key"
    assert Visit("key", group="g" * 80).identity == group_name("g" * 80)


def test_the_margin_is_that_of_the_evidence_or_else_of_the_score() -> None:
    visit = Visit("a")
    of_a_pair = Verdict(visit, 0.0, Action.DROP, Reason.CONDEMNED, score=9.0, evidence=5.0, threshold=3.0)
    of_a_visit = Verdict(visit, 0.0, Action.DROP, Reason.THRESHOLD, score=4.5, threshold=4.0)
    assert of_a_pair.margin == 2.0 and of_a_visit.margin == 0.5
    assert math.isnan(Verdict(visit, 1.0, Action.KEEP, Reason.CLEAN).margin), "nothing was compared"


def test_signals_mean_something_where_they_are_readable_evidence_or_not() -> None:
    usable, readable = np.array([True, False, False]), np.array([True, True, False])
    beyond = Measurement({}, np.array([1, 900, 900]), usable, readable=readable)
    assert [beyond.says_something(row) for row in range(3)] == [True, True, False]
    same = Measurement({}, np.array([1, 900, 900]), usable)
    assert [same.says_something(row) for row in range(3)] == [True, False, False]


def test_rows_of_inputs_of_any_shape_and_kind_are_cut() -> None:
    noise, sigmas = torch.ones(3, 2, dtype=torch.bfloat16), torch.tensor([[1.0], [math.inf], [2.0]])
    valid, (cut_noise, cut_sigmas) = finite_rows(noise, sigmas)
    assert valid == [True, False, True] and cut_noise.dtype is torch.bfloat16
    assert cut_noise[:, 0].tolist() == [1.0, 0.0, 1.0] and cut_sigmas.flatten().tolist() == [1.0, 0.0, 2.0]
    assert bool((noise == 1).all()) and bool(torch.isinf(sigmas[1]).all()), "the inputs stay as they are"
