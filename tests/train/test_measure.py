"""What a batch reads: each pass once, for the rows that it says something of, and of a plan for its rows alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from memsieve.train.batch import BatchPlan
from memsieve.train.config import RunConfig
from memsieve.train.set_up import set_up
from tests.train.conftest import plain_batch
from tests.train.test_held_out import rows_through

MakeConfig = Callable[..., RunConfig]


def test_extra_passes_leave_out_rows_that_are_no_evidence(make_config: MakeConfig) -> None:
    session = set_up(make_config(filter={"signals": ["reference_residual"], "record": ["magnitude"]}))
    assert session.scorer is not None and session.scorer.reference is not None
    rows = next(iter(session.loader)).rows
    batch = plain_batch(session, rows)
    with torch.no_grad():  # the model has moved
        for parameter in session.scorer.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        whole_prediction = session.denoiser.predict(
            session.scorer.model.eval(), batch.noisy, batch.timesteps, batch.conditioning
        )
        session.scorer.model.train()
    whole = session.scorer.measure(batch, whole_prediction).signals
    asked = rows_through(session.scorer.reference)
    scored = [True, False, True, True, False, True, True, True]
    readable = [True, False, True, True, True, True, True, True]  # the fifth is beyond max_timestep
    own = rows_through(session.scorer.model)
    part = session.scorer.measure(replace(batch, usable=scored, readable=readable), whole_prediction)
    assert asked == [6] and own == [7] and part.usable.tolist() == scored
    assert part.readable is not None and part.readable.tolist() == readable
    assert torch.allclose(part.signals["loss"], whole["loss"])
    for name, flags in (("reference_ratio", scored), ("magnitude", readable)):
        mask = torch.tensor(flags)
        assert torch.allclose(part.signals[name][mask], whole[name][mask], atol=1e-5), name
        assert part.signals[name][~mask].isnan().all()
    session.scorer.measure(replace(batch, usable=[False] * 8, readable=[False] * 8), whole_prediction)
    assert asked == [6, 1] and own == [7, 1], "a forward all the same"
    assert session.scorer.model.training


def test_of_a_plan_its_rows_are_measured_and_no_others(make_config: MakeConfig) -> None:
    session = set_up(make_config(filter={"signals": ["reference_ratio"], "record": []}))
    assert session.scorer is not None and session.scorer.reference is not None
    batch = plain_batch(session, next(iter(session.loader)).rows)
    whole = session.scorer.measure(batch)
    asked = rows_through(session.scorer.reference)
    drawn = [True, False, False, False, True, False, False, False]
    flags = {"usable": [True, True, True, True, False, True, True, True], "readable": [True] * 7 + [False]}
    planned = replace(batch, plan=BatchPlan(drawn, drawn, True, 3), **flags)
    found = session.scorer.measure(planned)
    assert asked == [3], "two rows are paid for; the third fills the shape"
    assert found.drawn is not None and found.drawn.tolist() == drawn
    assert found.usable.tolist() == [u and d for u, d in zip(flags["usable"], drawn, strict=True)]
    assert found.readable is not None
    assert found.readable.tolist() == [r and d for r, d in zip(flags["readable"], drawn, strict=True)]
    for name, values in found.signals.items():
        assert values.isfinite().tolist() == drawn, name
        assert torch.allclose(values[0], whole.signals[name][0], atol=1e-5), name


def test_what_is_evidence_is_what_the_batch_says(make_config: MakeConfig) -> None:
    """The scorer has no opinion of its own: neither about t nor about captions."""
    session = set_up(make_config(filter={"signals": ["loss"], "record": [], "max_timestep": 0.1}))
    assert session.scorer is not None
    batch = plain_batch(session, next(iter(session.loader)).rows)
    assert int(batch.timesteps.max()) > 100
    found = session.scorer.measure(replace(batch, usable=[True] * 8, readable=[True] * 8))
    assert found.usable.all() and found.readable is not None and found.readable.all()
