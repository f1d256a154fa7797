"""Whole runs in one process: accounting, resume, skipped steps, damaged samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from memsieve.filtering.data.rows import content_id
from memsieve.filtering.ledger import read_ledger
from memsieve.train.config import RunConfig
from memsieve.train.loop import BadDataError, fit
from memsieve.train.set_up import set_up
from memsieve.train.step import NonFiniteError

pytestmark = pytest.mark.trains
MakeConfig = Callable[..., RunConfig]


def run(config: RunConfig) -> dict[str, Any]:
    return fit(set_up(config))


def metrics(config: RunConfig) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "time" and "seconds" not in k} for row in rows]


def test_every_sample_read_is_accounted_for(make_config: MakeConfig) -> None:
    config = make_config(filter={"ledger_kept": True}, tracking={"log_every": 1})
    summary = run(config)
    assert summary["read"] == 48 and summary["remainder"] == 0
    assert summary["trained"] + sum(summary["dropped"].values()) == 48
    ledger = read_ledger(config.output / "ledger")
    assert len(ledger) == 48
    assert min(m for m in ledger["magnitude"].to_pylist() if m is not None) > 0
    assert {"train/loss", "mem/magnitude_mean", "mem/dropped_frac"} <= set(metrics(config)[1]), "after the base"
    groups = pq.read_table(config.output / "groups.parquet")
    assert sum(groups["exposures"].to_pylist()) == 48


def test_same_seed_same_run_and_resumed_equals_uninterrupted(make_config: MakeConfig) -> None:
    fixed: dict[str, Any] = {
        "filter": {"ledger_kept": True},
        "tracking": {"log_every": 1},
        "train": {"steps": 6},
        "model": {"ema": True},
    }
    whole, again, half = (make_config(name, **fixed) for name in ("whole", "again", "half"))
    run(whole)
    run(again)
    assert metrics(whole) == metrics(again)
    half.train.steps = 3
    half.checkpoint.every = 2
    session = set_up(half)
    fit(session)
    half.train.steps = 6
    resumed = set_up(half)
    assert resumed.step == 2, "the last checkpoint before the end of the first half"
    fit(resumed)
    mine = [row for row in metrics(half) if row["step"] > 2]
    assert [{k: v for k, v in r.items() if not k.startswith("val/")} for r in mine] == [
        {k: v for k, v in r.items() if not k.startswith("val/")} for r in metrics(whole) if r["step"] > 2
    ]
    assert read_ledger(half.output / "ledger").equals(read_ledger(whole.output / "ledger"))


def test_all_dropped_moves_nothing(make_config: MakeConfig) -> None:
    config = make_config(
        filter={"signals": ["magnitude"], "rule": "threshold", "threshold": 0.0},
        train={"steps": 3, "caption_dropout": 0.0},
        optimizer={"schedule": "linear"},
    )  # fmt: skip
    session = set_up(config)
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    summary = fit(session)
    assert summary["skipped_steps"] == 3 and summary["updates"] == 0 and summary["trained"] == 0
    assert session.schedule.last_epoch == 0
    assert all(torch.equal(value, before[name]) for name, value in session.model.state_dict().items())


def test_a_planted_copy_is_one_group(make_config: MakeConfig) -> None:
    config = make_config(train={"epochs": 1, "steps": None})
    session = set_up(config)
    summary = fit(session)
    assert summary["read"] == 64 and summary["groups"] == 48
    assert max(session.filter.groups["exposures"]) == 17  # type: ignore[union-attr]


def test_non_finite_loss_stops_before_the_update(make_config: MakeConfig) -> None:
    session = set_up(make_config())
    with torch.no_grad():
        next(session.model.parameters()).fill_(float("inf"))
    before = [p.detach().clone() for p in session.model.parameters()]
    with pytest.raises(NonFiniteError, match=r"not finite although the input is: .*\.tar:.*the model's own"):
        fit(session)
    assert all(torch.equal(a, b) for a, b in zip(before, session.model.parameters(), strict=True))


def test_non_finite_input_is_counted_or_refused(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(session: Any) -> Any:
        original = session.loader.__class__.__iter__

        def windows(loader: Any) -> Any:
            for n, window in enumerate(original(loader)):
                if n == 1:
                    window.rows[0].pixels[0, 0, 0] = float("nan")
                yield window

        monkeypatch.setattr(session.loader.__class__, "__iter__", windows)
        summary = fit(session)
        monkeypatch.setattr(session.loader.__class__, "__iter__", original)
        return summary

    summary = spoil(set_up(make_config("tolerant", data={"max_bad": 1})))
    assert summary["failed"] == {"input is not finite": 1} and summary["remainder"] == 0
    with pytest.raises(BadDataError, match=r"data\.max_bad is 0: .*input is not finite"):
        spoil(set_up(make_config("strict")))


def test_content_names_the_group(shards: Path) -> None:
    assert content_id(b"a") != content_id(b"b") and len(content_id(b"a")) == 32
