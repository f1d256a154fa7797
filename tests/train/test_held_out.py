"""Held-out pairs in turn: each by its own few draws, about which the reference is asked once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from memsieve.filtering.evidence.table import MIN_SWEEPS
from memsieve.filtering.filter import MemorizationFilter
from memsieve.train import held_out
from memsieve.train.batch import build_batch
from memsieve.train.config import RunConfig, TrainConfig
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.held_out import HeldOutTurns, held_out_turn
from memsieve.train.loop import fit
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from memsieve.train.visits import draw_visits, plain_samples

MakeConfig = Callable[..., RunConfig]


def rows_through(model: torch.nn.Module) -> list[int]:
    counted: list[int] = []
    model.register_forward_pre_hook(lambda module, args: counted.append(len(args[0])))
    return counted


def turns_of(session: Session) -> HeldOutTurns:
    assert session.turns is not None
    return session.turns


@pytest.mark.parametrize("filter", [{}, {"apply": "sieve", "record": [], "score_budget": 0.1}])
def test_all_meet_all_their_draws_and_then_again(
    make_config: MakeConfig, filter: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "DRAWS", 4)
    turns = turns_of(set_up(make_config(filter={"held_out_per_window": 7, **filter})))
    assert [len(part) for part in turns.parts] == [7, 7, 7, 3]
    taken = [(step, turn) for step in range(400) if (turn := turns.at(step)) is not None]
    order = [(part, draw) for draw in range(4) for part in range(4)]
    assert [turn for _, turn in taken[:32]] == order * 2
    gaps = [after[0] - before[0] for before, after in pairwise(taken)]
    # 14 forwards, and 7 once all draws were met, of 0.1 x 3 x 8 = 2.4 a window before the first comparison, then half
    expected = (1, 1, 1) if not filter else (6, 12, 6)
    assert gaps[:12] == [expected[0]] * 12 and gaps[12:16] == [expected[1]] * 4 and set(gaps[16:]) == {expected[2]}


def test_the_budget_is_the_held_out_pairs_until_the_first_comparison(make_config: MakeConfig) -> None:
    session = set_up(
        make_config(filter={"held_out_per_window": 8, "apply": "sieve", "record": [], "score_budget": 0.5})
    )
    assert session.filter is not None and session.filter.schedule is not None
    schedule, window = session.filter.schedule, session.config.train.batch_size
    turns = [step for step in range(400) if turns_of(session).at(step) is not None]
    assert schedule.warmup == turns[MIN_SWEEPS * 3]  # 24 pairs, 8 a turn
    opened = [step for step in range(400) if schedule.room(window, step)[0] > 0]
    assert opened[0] == schedule.warmup and len(opened) > 100


def test_turns_take_a_quarter_of_a_forward_a_window_by_default() -> None:
    """A batch of them every so many windows, of 128 pairs; no more than there are."""

    def turn(rows: int, accumulation: int = 1, there_are: int = 128, **filter: Any) -> tuple[int, int]:
        train = TrainConfig(steps=1, batch_size=rows, accumulation=accumulation)
        return held_out_turn(MemorizationFilter(**filter), train, there_are)

    assert turn(16) == (16, 4) and turn(16, signals=["magnitude"]) == (16, 8)
    assert turn(2, signals=["magnitude"]) == (2, 2), "a pair a window at least"
    assert turn(4, accumulation=8) == (8, 1) and turn(4, accumulation=2) == (4, 2)
    assert turn(1000, there_are=24) == (24, 1) and turn(64, there_are=24) == (24, 2)
    assert turn(16, held_out_per_window=5) == (5, 1) and turn(16, apply="sieve", record=[]) == (8, 1)


def test_between_turns_held_out_pairs_take_no_forward(make_config: MakeConfig) -> None:
    turns = turns_of(set_up(make_config(filter={"held_out_per_window": None})))
    assert [len(part) for part in turns.parts] == [8, 8, 8]
    taken = [step for step in range(60) if turns.at(step) is not None]
    assert taken == list(range(0, 60, 4))
    assert [turns.at(step) for step in taken[:4]] == [(0, 0), (1, 0), (2, 0), (0, 1)]


def test_the_reference_is_asked_once_about_each_draw(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "DRAWS", 2)
    filter = {"signals": ["reference_residual"], "record": [], "held_out_per_window": 8}
    session = set_up(make_config(filter=filter, train={"caption_dropout": 1.0, "steps": 10}))
    assert session.scorer is not None and session.scorer.reference is not None
    asked = rows_through(session.scorer.reference)
    fit(session)
    # 24 pairs, 2 draws, 8 a turn; of the training rows, none of which is evidence, one each window
    assert Counter(asked) == {8: 6, 1: 10}


@pytest.mark.parametrize(("signals", "passes"), [(["drift"], 1), (["drift", "anchored_magnitude"], 2)])
def test_predictions_of_the_reference_are_asked_for_again(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, signals: list[str], passes: int
) -> None:
    """They would fill memory; numbers of a draw are known by then."""
    monkeypatch.setattr(held_out, "DRAWS", 1)
    session = set_up(make_config(filter={"signals": signals, "record": [], "held_out_per_window": 8}))
    turns, scorer = turns_of(session), session.scorer
    assert scorer is not None and scorer.reference is not None and session.filter is not None
    asked = rows_through(scorer.reference)
    for step in range(6):  # three parts, twice
        turns.score(step, scorer)
    assert asked == [8] * 6 * passes and session.filter.held_out.sweep == 1
    assert held_out_turn(session.filter, TrainConfig(steps=1, batch_size=16), 128) == (8, 1)


def test_what_is_remembered_is_what_a_pass_says(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "DRAWS", 2)
    signals = ["loss", "reference_ratio", "magnitude_ratio"]
    session = set_up(make_config(filter={"signals": signals, "record": []}))
    turns, scorer = turns_of(session), session.scorer
    assert scorer is not None and session.filter is not None
    seen: list[dict[str, torch.Tensor]] = []
    calibrate = session.filter.calibrate
    session.filter.calibrate = lambda groups, found: (seen.append(found.signals), calibrate(groups, found))[1]  # type: ignore[method-assign, assignment]
    for step in (0, 6):  # three parts, two draws: the first part and draw again
        turns.score(step, scorer)
    settings, positions = DrawSettings(seed=3, resolution=16), [("calibration", 0, i) for i in range(8)]
    samples = plain_samples(turns.parts[0], settings, positions)
    batch = build_batch(session.denoiser, draw_visits(session.denoiser, samples, settings, among=turns.timesteps))
    assert max(turns.timesteps) == 749 and len(turns.timesteps) == 750
    expected = scorer.measure(batch).signals
    for name in signals:
        assert torch.equal(seen[0][name], seen[1][name]), name
        assert torch.allclose(seen[0][name], expected[name], atol=1e-5), name
