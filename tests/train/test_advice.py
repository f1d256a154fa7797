"""Which model to use: the last where all is well, the best where it is not, and what is said where none was kept."""

from __future__ import annotations

from collections.abc import Callable

import torch

from memsieve.train.__main__ import _what_to_use
from memsieve.train.advice import advice
from memsieve.train.config import RunConfig
from memsieve.train.session import Session
from memsieve.train.set_up import set_up

MakeConfig = Callable[..., RunConfig]


def looked_at(make_config: MakeConfig, held_out: list[float], policy: str = "retire") -> Session:
    """A run of 10 steps a look, whose held-out loss went so; each new lowest was kept while no pair came back."""
    filter = {"policy": policy} if policy == "retire" else {}
    session = set_up(make_config(filter=filter, checkpoint={"export": True}))
    for number, loss in enumerate(held_out):
        session.step = 10 * number
        levels = torch.full((10, 2), loss) * (1 + torch.arange(20).view(10, 2) / 1000)
        session.overfits.note(session.step, levels, torch.full((10, 2), 0.2))
        if number and session.overfits.best_trained is session.overfits.looks[-1]:
            session.best = session.step
    return session


def test_the_last_step_where_all_is_well(make_config: MakeConfig) -> None:
    use = advice(looked_at(make_config, [0.3, 0.25, 0.2]))
    assert use is not None and (use["folder"], use["step"]) == ("pipeline", 20)
    assert use["why"] == "held-out loss has not turned, and no gap has opened, and no pair comes back beyond chance"


def test_the_best_step_where_the_last_overfits(make_config: MakeConfig) -> None:
    use = advice(looked_at(make_config, [0.3, 0.2, 0.4]))
    assert use is not None and (use["folder"], use["step"]) == ("best", 10)
    assert "held-out loss has turned" in use["why"]
    assert "At step 10 held-out loss was 0.2019, the lowest in training" in use["why"]
    assert _what_to_use({"use": use}, "runs/mine") == f"use runs/mine/best (step 10): {use['why']}"


def test_that_nothing_was_better_than_the_base_is_said_with_a_way_out(make_config: MakeConfig) -> None:
    use = advice(looked_at(make_config, [0.2, 0.3, 0.4]))
    assert use is not None and use["folder"] == "best"
    assert "above the 0.2019 before the first step: train anew with fewer steps than 10, a lower" in use["why"]


def test_none_where_none_was_kept(make_config: MakeConfig) -> None:
    session = looked_at(make_config, [0.3, 0.2, 0.4])
    session.best = -1
    use = advice(session)
    assert use is not None and use["folder"] is None
    assert str(_what_to_use({"use": use}, "run")).startswith("none of the models of this run: the last step overfits")


def test_pairs_that_come_back_are_a_reason_of_their_own(make_config: MakeConfig) -> None:
    session = looked_at(make_config, [0.3, 0.25, 0.2])
    assert session.recall is not None
    session.recall.rule.copies, session.recall.rule.condemned = True, {"a": 12, "b": 18}
    session.best = 10
    use = advice(session)
    assert use is not None and use["folder"] == "best"
    back, last = use["why"].split(". ")
    assert back == "2 of 48 pairs have come back as their own picture"
    assert last == "Step 10 is the last that was looked at before pairs came back"


def test_a_run_that_did_not_look_says_nothing(make_config: MakeConfig) -> None:
    assert advice(set_up(make_config())) is None and _what_to_use({"use": None}, "run") is None
