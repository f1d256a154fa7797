"""The network as it is trained, the one before it, and when that one is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.network import drops_out, frozen_copy, needs_reference
from memsieve.train.set_up import set_up

MakeConfig = Callable[..., RunConfig]
LOOKED_UP = {"apply": "sieve", "reference": "runs/audit", "record": []}


@pytest.mark.parametrize(
    ("filter", "needed"),
    [
        ({"signals": ["reference_ratio"], "record": []}, True),
        ({"signals": ["loss"], "record": ["magnitude_ratio"]}, True),
        ({"signals": ["loss"], "record": ["magnitude", "loss_gap"]}, False),
        ({"signals": ["reference_ratio"], **LOOKED_UP}, False),
        ({"signals": ["reference_ratio"], **LOOKED_UP, "beyond": "frozen"}, True),
        ({"signals": ["loss"], **LOOKED_UP, "beyond": "frozen"}, False),
        (None, False),
    ],
)
def test_the_model_before_is_kept_where_something_is_compared_with_it(filter: Any, needed: bool) -> None:
    assert needs_reference(MemorizationFilter(**filter) if filter is not None else None) is needed


def test_a_frozen_copy_stays_what_the_model_was() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Dropout(0.5)).train()
    images = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        before = model[0](images)
    copied = frozen_copy(model, torch.float32)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert torch.allclose(copied(images), before, atol=1e-6), "its dropout is off"
    assert not any(p.requires_grad for p in copied.parameters()) and all(p.requires_grad for p in model.parameters())
    assert model.training and model[0].weight.dtype == torch.float32
    half = frozen_copy(model, torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16 and model[0].weight.dtype == torch.float32


def test_only_what_drops_something_out_says_so() -> None:
    plain, off, on = torch.nn.Linear(2, 2), torch.nn.Dropout(0.0), torch.nn.Dropout(0.1)
    assert not drops_out(torch.nn.Sequential(plain, off))
    assert drops_out(torch.nn.Sequential(plain, torch.nn.Sequential(on)))


def test_a_sieve_that_measures_by_the_training_forward_goes_with_no_dropout(make_config: MakeConfig) -> None:
    with pytest.raises(SettingsError, match=r"model\.lora\.dropout: 0\.1 and filter\.apply: sieve.* set it to 0, or"):
        set_up(make_config(model={"lora": {"dropout": 0.1}}, filter={"apply": "sieve", "record": []}))


def test_an_average_starts_from_what_is_trained_and_no_more(make_config: MakeConfig) -> None:
    session = set_up(make_config(model={"lora": {"rank": 2}, "ema": True}, filter={"enabled": False}))
    trained = [p for p in session.model.parameters() if p.requires_grad]
    assert session.ema is not None and len(session.ema.shadow_params) == len(trained) > 0
    assert all(torch.equal(a, b) for a, b in zip(session.ema.shadow_params, trained, strict=True))
    assert session.model.training and {id(p) for p in trained} == {
        id(p) for group in session.optimizer.param_groups for p in group["params"]
    }


def test_warmup_steps_warm_up_under_every_schedule(make_config: MakeConfig) -> None:
    for schedule in ("constant", "linear"):
        optimizer = {"schedule": schedule, "warmup_steps": 4, "lr": 1e-3}
        config = make_config(schedule, filter={"enabled": False}, optimizer=optimizer, train={"steps": 40})
        session = set_up(config)
        assert session.schedule.get_last_lr() == [0.0], schedule
        rates = [1e-3 * fraction(step) for fraction in session.schedule.lr_lambdas for step in range(5)]
        assert rates == pytest.approx([0.0, 0.25e-3, 0.5e-3, 0.75e-3, 1e-3]), schedule
