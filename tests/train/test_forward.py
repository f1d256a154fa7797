"""Rows that have weight 0 before a window go through no backward, and all else is as if they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from memsieve.train.config import RunConfig
from memsieve.train.forward import predict_in_training, worth_a_forward
from memsieve.train.loop import fit, train_window, window_batches
from memsieve.train.session import Session
from memsieve.train.set_up import set_up

MakeConfig = Callable[..., RunConfig]


def with_condemned(make_config: MakeConfig, count: int, output: str = "run", **train: Any) -> tuple[Session, Any, Any]:
    """A session that has condemned the first ``count`` groups of its first window; that window and its batches."""
    session = set_up(make_config(output, filter={"signals": ["reference_residual"]}, train=train))
    assert session.filter is not None
    window = next(iter(session.loader))
    groups = list(dict.fromkeys(row.group for row in window.rows if row is not None))
    session.filter.condemned.update(dict.fromkeys(groups[:count], 0))
    return session, window, window_batches(session, window)


def predicted(session: Session, apart: bool, batch: Any) -> torch.Tensor:
    call, settled = (batch.noisy, batch.timesteps, batch.conditioning), batch.settled if apart else None
    return predict_in_training(session.denoiser, session.model, session.model, call, settled)


def gradients(session: Session, apart: bool, batch: Any) -> torch.Tensor:
    """Of the weighted loss of a batch, settled rows at weight 0."""
    session.model.zero_grad()
    prediction = predicted(session, apart, batch)
    weights = torch.tensor([0.0 if over else 1.0 for over in batch.settled])
    ((prediction - batch.noise).square().flatten(1).mean(1) * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in session.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("count", [0, 2, 8])
def test_prediction_and_gradient_are_those_of_one_forward(make_config: MakeConfig, count: int) -> None:
    """Also where nobody is settled, or everybody."""
    session, _, (batch,) = with_condemned(make_config, count)
    assert (sum(batch.settled) == 0) == (count == 0) and (not all(batch.settled)) == (count < 8)
    with torch.no_grad():
        together, apart = (predicted(session, way, batch) for way in (False, True))
    assert torch.allclose(together, apart, atol=1e-5)
    whole, split = (gradients(session, way, batch) for way in (False, True))
    assert torch.allclose(whole, split, atol=1e-5) and bool(whole.any()) == (count < 8)


def test_a_window_spends_no_backward_and_no_reference_on_the_condemned(make_config: MakeConfig) -> None:
    session, window, (batch,) = with_condemned(make_config, 3)
    assert session.scorer is not None and session.scorer.reference is not None
    learning, compared = [], []
    session.model.register_forward_pre_hook(
        lambda module, args, kwargs: learning.append((len(args[0]), torch.is_grad_enabled())), with_kwargs=True
    )
    session.scorer.reference.register_forward_pre_hook(lambda module, args: compared.append(len(args[0])))
    over = sum(batch.settled)
    assert worth_a_forward(over, 8) and not any(
        usable for usable, out in zip(batch.usable, batch.settled, strict=True) if out
    )
    train_window(session, iter([window]))
    assert [rows for rows, graded in learning if graded] == [8 - over]
    # without gradients: the settled ones, what the magnitude takes, and a turn of held-out pairs
    assert [rows for rows, graded in learning if not graded] == [over, max(sum(batch.readable), 1), 8]
    assert compared[0] == max(sum(batch.usable), 1)


def test_a_few_settled_rows_are_not_worth_a_forward() -> None:
    assert not worth_a_forward(0, 16) and not worth_a_forward(3, 16) and worth_a_forward(4, 16)


def test_a_run_ends_at_the_same_weights(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether settled rows go apart or not: only roundings differ."""
    ends = []
    for output, worth in (("apart", lambda settled, rows: settled > 0), ("together", lambda settled, rows: False)):
        monkeypatch.setattr("memsieve.train.step.worth_a_forward", worth)
        session, _, _ = with_condemned(make_config, 4, output, steps=3)
        before = torch.cat([p.detach().flatten().clone() for p in session.model.parameters()])
        summary = fit(session)
        ends.append(
            (summary["dropped"], torch.cat([p.detach().flatten() for p in session.model.parameters()]) - before)
        )
    assert ends[0][0] == ends[1][0] and sum(ends[0][0].values()) > 0
    assert float((ends[0][1] - ends[1][1]).norm() / ends[1][1].norm()) < 1e-2
