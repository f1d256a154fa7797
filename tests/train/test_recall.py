"""The model in training is asked which pairs come back: when, whose turn it is, what it costs, and what is done."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from memsieve.filtering.ledger import read_ledger
from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.recall import Asked, asked_pairs
from memsieve.train.session import Session
from memsieve.train.set_up import set_up

MakeConfig = Callable[..., RunConfig]
RECALL = {"policy": "retire", "copy_rate": 0.02}


def weights(session: Session) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in session.model.parameters()])


def test_drawings_take_the_share_of_compute_that_is_set(make_config: MakeConfig) -> None:
    """A drawing is eight forwards of a row, a training visit three."""
    for budget, accumulation, interval in ((0.25, 1, 11), (0.25, 2, 11), (1.0, 1, 3)):
        config = make_config(filter={**RECALL, "recall_budget": budget}, train={"accumulation": accumulation})
        probe = set_up(config).recall
        assert probe is not None and probe.interval == interval and probe.round == 8 * accumulation
        assert probe.round * 8 / interval <= budget * 3 * 8 * accumulation


def test_every_caption_has_its_turn_and_suspects_have_more(make_config: MakeConfig) -> None:
    probe = set_up(make_config(filter=RECALL)).recall
    assert probe is not None and probe.held_out
    evidence = probe.rule.evidence
    evidence.add_base([0.0] * 50)
    rounds = []
    for _ in range(16):
        asked = probe._chosen()
        assert len(asked) == probe.round and len(set(asked)) == probe.round, "the same noise is never drawn twice"
        rounds += asked
        for caption, _, trained in asked:
            if trained:
                evidence.add(caption, evidence.pairs[caption][0], 1.0 if caption in probe.captions[:2] else -1.0)
        evidence.add_held_out([0.0 for *_, trained in asked if not trained])
    counts = Counter(caption for caption, _, trained in rounds if trained)
    assert set(counts) == set(probe.captions)
    assert min(counts[caption] for caption in probe.captions[:2]) > max(counts[c] for c in probe.captions[2:])
    assert sum(not trained for *_, trained in rounds) == 16
    for group in evidence.pairs[probe.captions[0]]:
        probe.rule.condemned[group] = 1
    assert probe.captions[0] not in probe._suspected(), "who has retired is asked in turn alone"


def test_asking_changes_nothing_in_training(make_config: MakeConfig) -> None:
    quiet = make_config("quiet", filter={"enabled": False}, train={"steps": 4})
    asked = {**RECALL, "rule": "recall", "policy": "observe", "recall_budget": 1.0}
    asking = make_config("asking", filter=asked, train={"steps": 4})
    ends = []
    for config in (quiet, asking):
        session = set_up(config)
        fit(session)
        ends.append(weights(session))
    assert session.recall is not None and session.recall.rule.evidence.rounds == 1
    assert torch.equal(*ends)


def test_a_resumed_run_asks_and_finds_the_same(make_config: MakeConfig) -> None:
    sections: dict[str, Any] = {"filter": {**RECALL, "recall_budget": 1.0}, "validation": {"every": 2}}
    sections["checkpoint"] = {"every": 4, "final": True}
    whole = set_up(make_config("whole", train={"steps": 8}, **sections))
    fit(whole)
    part = set_up(make_config("part", train={"steps": 4}, **sections))
    fit(part)
    going_on = set_up(make_config("part", train={"steps": 8}, **sections))
    assert going_on.step == 4
    fit(going_on)
    assert torch.equal(weights(whole), weights(going_on))
    assert whole.recall is not None and going_on.recall is not None
    assert whole.recall.rule.state_dict() == going_on.recall.rule.state_dict()
    assert whole.overfits.looks == going_on.overfits.looks and len(whole.overfits.looks) == 5
    assert whole.best == going_on.best


@pytest.fixture(scope="module")
def retired(make_shared_config: MakeConfig) -> tuple[Session, dict[str, Any], str]:
    """A run in which one pair more comes back in every second round, and the first is forgotten again: how it ended,
    its summary, and what it said. That a model does come back is the slow test's premise; here it is told so."""
    sections: dict[str, Any] = {"filter": {**RECALL, "recall_budget": 1.0, "retire_until": 0.9}}
    config = make_shared_config(
        "retired", train={"steps": 300}, validation={"every": 40}, checkpoint={"final": True}, **sections
    )
    session = set_up(config)
    probe = session.recall
    assert probe is not None
    ask, captions = probe._ask, probe.captions

    def told(asked: Sequence[Asked]) -> list[tuple[float, str]]:
        found, rounds = ask(asked), probe.rule.evidence.rounds
        back = set(captions[: rounds // 2] if rounds < 30 else captions[1 : rounds // 2])
        return [
            (5.0 if caption in back and trained and number >= 0 else min(margin, 0.0), group)
            for (caption, number, trained), (margin, group) in zip(asked, found, strict=True)
        ]

    probe._ask = told  # type: ignore[method-assign]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        summary = fit(session)
    return session, summary, " ".join(said.getvalue().split())


def test_pairs_retire_one_by_one_and_the_run_ends(retired: tuple[Session, dict[str, Any], str]) -> None:
    session, summary, said = retired
    assert session.recall is not None and session.step < 300
    condemned = session.recall.rule.condemned
    assert summary["ended_early"] == (
        f"{len(condemned)} of 48 pairs have retired, and fewer than filter.retire_until: 0.9 are still trained on"
    )
    assert len(condemned) == 5 and len(set(condemned.values())) > 1
    assert "copies: at step" in said and "pairs come back as their own picture when their caption is drawn" in said
    assert said.count("copies: at step") == 1 and "are trained on no more" in said


def test_a_run_that_has_ended_so_is_not_trained_on_by_the_same_command(
    retired: tuple[Session, dict[str, Any], str],
) -> None:
    session, summary, _ = retired
    again = set_up(session.config)
    assert again.step == summary["steps"]
    assert fit(again)["ended_early"] == summary["ended_early"] and again.step == summary["steps"]


def test_what_was_retired_is_accounted_for(retired: tuple[Session, dict[str, Any], str]) -> None:
    session, summary, _ = retired
    dropped = summary["dropped"]["its caption brings its picture back"]
    assert summary["read"] == summary["trained"] + dropped and summary["remainder"] == 0 and dropped > 0
    ledger = read_ledger(session.config.output / "ledger").to_pylist()
    rows = [row for row in ledger if row["action"] == "retire"]
    assert len(rows) == dropped and all(row["weight"] == 0 and row["recall"] == row["evidence"] for row in rows)
    groups = pq.read_table(session.config.output / "groups.parquet").to_pylist()
    condemned = session.recall.rule.condemned  # type: ignore[union-attr]
    assert {row["group"]: row["condemned_step"] for row in groups if row["condemned_step"] >= 0} == condemned
    assert sum(row["dropped"] for row in groups) == dropped


def test_curves_begin_with_the_base(retired: tuple[Session, dict[str, Any], str]) -> None:
    session, _, _ = retired
    rows = [json.loads(line) for line in (session.config.output / "metrics.jsonl").read_text().splitlines()]
    first = next(row for row in rows if row["step"] == 0)
    for name in ("val/heldout_loss", "val/train_loss", "val/loss_gap", "mem/own_image_rate", "mem/copy_rate"):
        assert name in first, name
    last = [row for row in rows if "mem/copy_rate" in row][-1]
    assert first["mem/retired_pairs"] == 0 and last["mem/retired_pairs"] >= 2 and last["mem/pairs"] == 48
    assert last["mem/copy_rate"] > first["mem/copy_rate"] == 0.0


@pytest.mark.parametrize(
    ("count", "message"),
    [(1, r"holds 1 that can be trained on; give it two at least"), (0, "none has one; write captions")],
)
def test_what_cannot_be_asked_is_refused_before_the_model_is_loaded(
    count: int, message: str, make_config: MakeConfig, make_shards: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_shards(tmp_path / "data" / "train", count or 4)
    data: dict[str, Any] = {"path": str(folder), "held_out_path": None, "held_out_fraction": 0.0}
    if not count:
        data |= {"caption_key": "nothing", "allow_empty_caption": True}
    config = make_config(filter=RECALL, data=data, model={"path": str(tmp_path / "no model")})
    with pytest.raises(SettingsError, match=message):
        asked_pairs(config)
    with pytest.raises(SettingsError, match=message):
        set_up(config)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_two_ranks_ask_what_one_process_asks(
    engine: str, make_config: MakeConfig, run_ranks: Callable[..., Any]
) -> None:
    """Equally many forwards and collectives on both, or they would wait for ever; the same drawings, shared out; and
    what is stopped goes on."""
    sections: dict[str, Any] = {"filter": {**RECALL, "recall_budget": 1.0}, "data": {"streams": 2}}
    sections |= {"validation": {"every": 4}, "checkpoint": {"final": True}, "optimizer": {"lr": 1e-4}}
    alone = set_up(make_config("alone", train={"steps": 8}, **sections))
    fit(alone)
    assert alone.recall is not None
    jobs = []
    for name, folder, steps in (("whole", "whole", 8), ("part", "part", 4), ("rest", "part", 8)):
        config = make_config(folder, train={"steps": steps, "batch_size": 4}, **sections)
        jobs.append({"name": name, "config": json.loads(config.model_dump_json())})
    runs = run_ranks(engine, jobs)
    one, other = (rank for rank in runs.outcomes)
    for name in ("whole", "part", "rest"):
        assert one[name]["recall"] == other[name]["recall"] and one[name]["retired"] == other[name]["retired"]
    assert one["rest"]["started_at"] == 4 and one["rest"]["recall"] == one["whole"]["recall"]
    evidence, mine = one["whole"]["recall"], alone.recall.rule.evidence.state_dict()
    assert evidence["asked"] == mine["asked"] and evidence["rounds"] == mine["rounds"] == 2
    assert evidence["base"] == pytest.approx(mine["base"], abs=1e-3)
