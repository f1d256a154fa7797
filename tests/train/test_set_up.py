"""How a session is put together: which parts a run has, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from memsieve.filtering.denoisers.lora import AdapterOff
from memsieve.train.config import RunConfig
from memsieve.train.set_up import set_up

MakeConfig = Callable[..., RunConfig]


def test_a_run_without_the_filter_has_none_of_its_parts(make_config: MakeConfig) -> None:
    session = set_up(make_config(filter={"enabled": False}))
    parts = (session.filter, session.scorer, session.turns, session.sieve, session.looked_up, session.trainer.filter)
    assert parts == (None,) * 6


def test_there_is_one_filter_and_one_exchange(make_config: MakeConfig) -> None:
    session = set_up(make_config())
    assert session.scorer is not None and session.turns is not None
    assert session.filter is session.scorer.filter is session.trainer.filter is session.turns.filter
    assert session.filter is not None and session.filter.exchange is session.exchange is session.trainer.exchange
    assert session.trainer.model is session.model and session.trainer.optimizer is session.optimizer


@pytest.mark.parametrize("rule", ["evidence", "threshold"])
def test_held_out_pairs_have_turns_where_something_is_compared_with_them(make_config: MakeConfig, rule: str) -> None:
    fixed = {"signals": ["magnitude"], "rule": "threshold", "threshold": 1.0}
    session = set_up(make_config(filter=fixed if rule == "threshold" else {}))
    assert (session.turns is None) == (rule == "threshold") and len(session.held_out) == 24


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_the_reference_is_what_was_there_before_the_adapter(
    make_config: MakeConfig, lora: dict[str, int] | None
) -> None:
    """A copy under a full fine-tune, the model with its adapter off under LoRA, nothing where nothing is compared."""
    session = set_up(make_config(model={"lora": lora}, filter={"signals": ["reference_ratio"], "record": []}))
    assert session.scorer is not None
    reference = session.scorer.reference
    assert reference is not None and isinstance(reference, AdapterOff) == (lora is not None)
    if lora is None:
        assert not any(p.requires_grad for p in reference.parameters()) and not reference.training
        for copied, own in zip(reference.parameters(), session.model.parameters(), strict=True):
            assert torch.equal(copied, own) and copied.data_ptr() != own.data_ptr()
    alone = set_up(make_config("alone", model={"lora": lora}, filter={"signals": ["loss"], "record": []}))
    assert alone.scorer is not None and alone.scorer.reference is None


def test_the_length_is_that_of_the_steps_or_of_the_passes(make_config: MakeConfig) -> None:
    assert set_up(make_config()).total_steps == 6
    assert set_up(make_config("passes", train={"epochs": 3, "steps": None})).total_steps == 3 * 8


def test_too_few_held_out_pairs_are_refused_before_the_model_is_loaded(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(model={"path": str(tmp_path / "no model")}, filter={"false_drop_rate": 0.01})
    with pytest.raises(ValueError, match=r"needs at least 99 held-out groups .*there are 24.*filter\.policy: retire"):
        set_up(config)
